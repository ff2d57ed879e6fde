# services.nixoci-proxy for NixOS: a systemd service of its own user, and Nix's
# configuration with it, so that both come and go together.
{ config, lib, ... }:
let
  cfg = config.services.nixoci-proxy;
  systemd = import ./systemd.nix;

  credentials =
    lib.optional (cfg.tokenFile != null) "token:${toString cfg.tokenFile}"
    ++ lib.optional (cfg.passwordFile != null) "password:${toString cfg.passwordFile}"
    ++ lib.optional (cfg.dockerConfigFile != null) "config.json:${toString cfg.dockerConfigFile}";

  # Only root may bind to the ports below; not even a capability helps in a user
  # namespace of its own.
  privileged = cfg.port < 1024;
in
{
  imports = [
    ./common.nix
    ./nixcache-proxy.nix
  ];

  options.services.nixoci-proxy.openFirewall = lib.mkOption {
    type = lib.types.bool;
    default = false;
    description = "Whether to let other machines reach the port through the firewall.";
  };

  config = lib.mkIf cfg.enable {
    systemd.services.nixoci-proxy = {
      description = "Nix binary cache from an OCI registry";
      documentation = [ "https://github.com/org/nixoci-action" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      startLimitIntervalSec = 0; # it never gives up: Nix fails builds while it is away

      environment =
        lib.optionalAttrs (cfg.tokenFile != null) { GITHUB_TOKEN_FILE = "%d/token"; }
        // lib.optionalAttrs (cfg.username != null) { NIXOCI_USERNAME = systemd.value cfg.username; }
        // lib.optionalAttrs (cfg.passwordFile != null) { NIXOCI_PASSWORD_FILE = "%d/password"; }
        // lib.optionalAttrs (cfg.dockerConfigFile != null) { DOCKER_CONFIG = "%d"; };

      serviceConfig = systemd.service // {
        ExecStart = lib.concatStringsSep " " (map systemd.argument cfg.arguments ++ [ "--cache-dir" "%C/nixoci-proxy" ]);
        LoadCredential = credentials;
        CacheDirectory = "nixoci-proxy";
        CacheDirectoryMode = "0700";

        DynamicUser = true;
        AmbientCapabilities = lib.optional privileged "CAP_NET_BIND_SERVICE";
        CapabilityBoundingSet = if privileged then "CAP_NET_BIND_SERVICE" else "";
        DevicePolicy = "closed";
        PrivateDevices = true;
        PrivateTmp = true;
        PrivateUsers = !privileged;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
      };
    };

    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall cfg.port;
  };
}
