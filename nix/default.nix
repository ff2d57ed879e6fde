# nix-build nix
{
  pkgs ? import <nixpkgs> { },
  version ? "source",
}:
pkgs.callPackage ./package.nix { inherit version; }
