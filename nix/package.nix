# The program, static, from the sources in this checkout.
{
  lib,
  pkgs,
  stdenv,
  go,
  buildGoModule,
  version,
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
  pname = "nixoci";
  inherit version;
  src = lib.cleanSource ../.;
  # go test ./nix -run TestVendorHash -update
  vendorHash = "sha256-jSaDcnDGJt6HvWOmcb1AOiEmV5jKg8dkBSXxpoyOf48=";

  subPackages = [ "cmd/nixoci" ];
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-w"
    "-X github.com/org/nixoci-action/internal/cli.version=${version}"
  ];
  doCheck = false; # the tests run Nix and registries; CI has them

  # The commands by their own names are for apps, not for PATH: others have a gc.
  postInstall = ''
    mkdir -p "$out/libexec/nixoci"
    for command in publish gc proxy inspect keys; do
      ln -s ../../bin/nixoci "$out/libexec/nixoci/$command"
    done
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    bash scripts/share "$out/bin/nixoci" "$out/share"
  '';

  meta = {
    description = "Nix binary caches in OCI registries";
    homepage = "https://github.com/org/nixoci-action";
    license = lib.licenses.mit;
    mainProgram = "nixoci";
  };
}
