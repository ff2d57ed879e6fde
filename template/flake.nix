{
  description = "A flake whose builds are in a cache of its own";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ];
      forEach = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      # nix run
      packages = forEach (pkgs: {
        default = pkgs.writeShellApplication {
          name = "hello";
          runtimeInputs = [ pkgs.figlet ];
          text = "figlet 'Hello from the cache'";
        };
      });

      # nix develop
      devShells = forEach (pkgs: {
        default = pkgs.mkShell { packages = [ pkgs.figlet ]; };
      });
    };
}
