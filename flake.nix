# nix run github:org/nixoci-action -- publish --flake .
# nix flake init -t github:org/nixoci-action
{
  description = "Nix binary caches in OCI registries";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      forEach = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) systems);

      # a release, as in its commit; between releases, date and commit
      release = (builtins.fromJSON (builtins.readFile ./launch/release.json)).version;
      date = builtins.substring 0 8 (self.lastModifiedDate or "19700101");
      version = if release != "" then release else "0.${date}.${self.shortRev or "dirty"}";

      # The service runs the program of this flake, whatever the system's nixpkgs.
      module =
        file:
        { lib, pkgs, ... }:
        let
          inherit (pkgs.stdenv.hostPlatform) system;
        in
        {
          _file = "nixoci-action";
          imports = [ file ];
          config = lib.mkIf (self.packages ? ${system}) {
            services.nixoci-proxy.package = lib.mkDefault self.packages.${system}.nixoci;
          };
        };
    in
    {
      packages = forEach (system: rec {
        nixoci = import ./nix { pkgs = nixpkgs.legacyPackages.${system}; inherit version; };
        default = nixoci;
      });

      apps = forEach (
        system:
        let
          package = self.packages.${system}.nixoci;
          app = program: {
            type = "app";
            program = "${package}/${program}";
            meta = { inherit (package.meta) description; };
          };
        in
        builtins.listToAttrs (
          map (name: { inherit name; value = app "libexec/nixoci/${name}"; }) [ "publish" "gc" "proxy" "inspect" "keys" ]
        )
        // rec {
          nixoci = app "bin/nixoci";
          default = nixoci;
        }
      );

      # pkgs.nixoci
      overlays.default = final: _: { nixoci = import ./nix { pkgs = final; inherit version; }; };

      nixosModules = rec {
        default = module ./nix/nixos.nix;
        nixoci-proxy = default;
      };
      darwinModules.default = module ./nix/darwin.nix;
      homeModules.default = module ./nix/home-manager.nix;
      homeManagerModules = self.homeModules; # its older name

      templates.default = {
        path = ./template;
        description = "A flake that GitHub Actions builds, updates and publishes to a cache on ghcr.io";
        welcomeText = ''
          CACHE.md has the next three steps.
        '';
      };
    };
}
