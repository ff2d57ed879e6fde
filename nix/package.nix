# Some of the commands, static, from the sources in this checkout.
{
  lib,
  pkgs,
  go,
  buildGoModule,
  version,
  commands, # names of folders in cmd
}:
let
  needed = builtins.head (builtins.match ".*\ngo ([0-9]+\\.[0-9]+).*" (builtins.readFile ../go.mod));
  build =
    if lib.versionAtLeast go.version needed then
      buildGoModule
    else
      pkgs."buildGo${builtins.replaceStrings [ "." ] [ "" ] needed}Module"
        or (throw "nixoci needs Go ${needed}, and this nixpkgs has ${go.version}: please take a newer nixpkgs");
in
build {
  pname = if builtins.length commands == 1 then "nixoci-${builtins.head commands}" else "nixoci";
  inherit version;
  src = lib.cleanSource ../.;
  # go test ./nix -run TestVendorHash -update
  vendorHash = "sha256-jSaDcnDGJt6HvWOmcb1AOiEmV5jKg8dkBSXxpoyOf48=";

  subPackages = map (name: "cmd/${name}") commands;
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-w"
    "-X github.com/org/nixoci-action/internal/cli.version=${version}"
  ];
  doCheck = false; # the tests run Nix and registries; CI has them

  meta = {
    description = "Nix binary caches in OCI registries";
    homepage = "https://github.com/org/nixoci-action";
    license = lib.licenses.mit;
    mainProgram = if builtins.length commands == 1 then builtins.head commands else "proxy";
  };
}
