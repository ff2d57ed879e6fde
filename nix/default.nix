# Each command by its name, and all of them as "default":
#
#   nix-build nix -A proxy
{
  pkgs ? import <nixpkgs> { },
  version ? "source",
}:
let
  # The action runs in GitHub Actions only, and finds its programs itself.
  commands = builtins.filter (name: name != "action") (builtins.attrNames (builtins.readDir ../cmd));
  package = commands: pkgs.callPackage ./package.nix { inherit version commands; };
in
builtins.listToAttrs (map (name: { inherit name; value = package [ name ]; }) commands)
// {
  default = package commands;
}
