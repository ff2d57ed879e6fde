# The options of nixcache-oci's module, so that its users change the input of
# their flake and nothing else.
{ lib, options, ... }:
let
  old = name: [ "services" "nixcache-proxy" name ];
  new = name: [ "services" "nixoci-proxy" name ];
  renamed = name: lib.mkRenamedOptionModule (old name) (new name);
  changed =
    from: to: f:
    lib.mkChangedOptionModule (old from) (new to) (config: f config.services.nixcache-proxy.${from});
in
{
  imports = [
    (renamed "enable")
    (renamed "listenAddress")
    (renamed "port")
    (renamed "requireSignatures")
    (changed "repo" "cache" (repo: "ghcr.io/${lib.toLower repo}/nix-cache"))
    # one string there, as a file has it: with a newline at its end, or with several keys
    (changed "publicKey" "publicKeys" (
      text: builtins.filter (key: builtins.isString key && key != "") (builtins.split "[[:space:]]+" text)
    ))
  ];

  # what is left out there has a value
  config.services.nixoci-proxy = lib.mkIf options.services.nixcache-proxy.enable.isDefined {
    cache = lib.mkDefault "ghcr.io/cmspam/nixcache-oci/nix-cache";
    upstreams = lib.mkDefault [ "https://cache.nixos.org" ];
  };
}
