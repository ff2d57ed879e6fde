# services.nixoci-proxy for home-manager: a service of the user, of systemd or
# launchd, and the user's configuration of Nix with it. Nix's daemon takes the
# substituter only from users that it trusts.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nixoci-proxy;
  arguments = cfg.arguments ++ [ "--cache-dir" "${config.xdg.cacheHome}/nixoci" ];
  environment = import ./secrets.nix { inherit lib cfg; };
  systemd = import ./systemd.nix;
in
{
  imports = [ ./common.nix ];

  config = lib.mkIf cfg.enable {
    systemd.user.services.nixoci-proxy = lib.mkIf pkgs.stdenv.hostPlatform.isLinux {
      Unit.Description = "Nix binary cache from an OCI registry";
      Unit.Documentation = "https://github.com/org/nixoci-action";
      Unit.StartLimitIntervalSec = 0; # it never gives up: Nix fails builds while it is away
      Install.WantedBy = [ "default.target" ];
      Service = systemd.service // {
        ExecStart = lib.concatStringsSep " " (map systemd.argument arguments);
        Environment = lib.mapAttrsToList (name: value: systemd.quoted "${name}=${value}") environment;
      };
    };

    launchd.agents.nixoci-proxy = lib.mkIf pkgs.stdenv.hostPlatform.isDarwin {
      enable = true;
      config = {
        ProgramArguments = arguments;
        EnvironmentVariables = environment;
        KeepAlive = true;
        RunAtLoad = true;
        StandardOutPath = "${config.home.homeDirectory}/Library/Logs/nixoci-proxy.log";
        StandardErrorPath = "${config.home.homeDirectory}/Library/Logs/nixoci-proxy.log";
      };
    };
  };
}
