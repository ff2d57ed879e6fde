# services.nixoci-proxy for nix-darwin: a launchd daemon of its own user, and
# Nix's configuration with it.
{ config, lib, ... }:
let
  cfg = config.services.nixoci-proxy;
  user = "_nixoci-proxy";
  home = "/private/var/lib/nixoci-proxy";
in
{
  imports = [ ./common.nix ];

  options.services.nixoci-proxy.uid = lib.mkOption {
    type = lib.types.int;
    default = 551;
    description = "ID of the proxy's user and group `${user}`, which must be able to read the files with secrets.";
  };

  config = lib.mkIf cfg.enable {
    users.users.${user} = {
      inherit (cfg) uid;
      gid = cfg.uid;
      inherit home;
      createHome = true;
      shell = "/usr/bin/false";
      description = "Proxy for a Nix binary cache";
    };
    users.groups.${user} = {
      gid = cfg.uid;
      description = "Proxy for a Nix binary cache";
    };
    users.knownUsers = [ user ];
    users.knownGroups = [ user ];

    launchd.daemons.nixoci-proxy = {
      command = lib.escapeShellArgs (cfg.arguments ++ [ "--cache-dir" "${home}/cache" ]);
      environment = {
        HOME = home;
      }
      // (import ./secrets.nix { inherit lib cfg; });
      serviceConfig = {
        KeepAlive = true;
        RunAtLoad = true;
        UserName = user;
        GroupName = user;
        StandardOutPath = "${home}/proxy.log";
        StandardErrorPath = "${home}/proxy.log";
      };
    };
  };
}
