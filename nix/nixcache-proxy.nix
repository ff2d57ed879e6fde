# The options of nixcache-oci's module, so that its users change the input of
# their flake and nothing else.
{ lib, ... }:
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
    (changed "publicKey" "publicKeys" (key: lib.optional (key != "") key))
  ];
}
