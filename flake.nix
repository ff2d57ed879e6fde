# nix flake init -t github:org/nixoci-action
{
  description = "Nix binary caches in OCI registries";

  outputs = { self }: {
    templates.default = {
      path = ./template;
      description = "A flake that GitHub Actions builds, updates and publishes to a cache on ghcr.io";
      welcomeText = ''
        CACHE.md has the next three steps.
      '';
    };
  };
}
