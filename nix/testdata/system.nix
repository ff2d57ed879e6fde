# The options of NixOS, nix-darwin and home-manager that the modules here set,
# with the types that they have there.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  inherit (types) attrsOf listOf nullOr str int bool oneOf submodule;
  atom = nullOr (oneOf [ bool int str ]);
  text = mkOption { type = str; };
  list = mkOption { type = listOf str; default = [ ]; };
  settings = attrsOf (types.either atom (listOf atom));
in
{
  options = {
    assertions = mkOption { type = listOf (types.simple "assertion" builtins.isAttrs); default = [ ]; };
    warnings = list;
    nix.enable = mkOption { type = bool; default = true; };
    nix.settings = mkOption { type = settings; default = { }; };

    # NixOS
    networking.firewall.allowedTCPPorts = mkOption { type = listOf types.port; default = [ ]; };
    systemd.services = mkOption {
      default = { };
      type = attrsOf (submodule {
        description = text;
        documentation = list;
        wantedBy = list;
        wants = list;
        after = list;
        startLimitIntervalSec = mkOption { type = int; };
        environment = mkOption { type = attrsOf str; default = { }; };
        serviceConfig = mkOption { type = settings; default = { }; };
      });
    };

    # nix-darwin
    users.knownUsers = list;
    users.knownGroups = list;
    users.users = mkOption {
      default = { };
      type = attrsOf (submodule {
        uid = mkOption { type = int; };
        gid = mkOption { type = int; };
        home = text;
        createHome = mkOption { type = bool; };
        shell = text;
        description = text;
      });
    };
    users.groups = mkOption {
      default = { };
      type = attrsOf (submodule { gid = mkOption { type = int; }; description = text; });
    };
    launchd.daemons = mkOption {
      default = { };
      type = attrsOf (submodule {
        command = text;
        environment = mkOption { type = attrsOf str; default = { }; };
        serviceConfig = mkOption { type = settings; default = { }; };
      });
    };

    # home-manager
    home.homeDirectory = mkOption { type = types.path; default = "/home/user"; };
    xdg.cacheHome = mkOption { type = types.path; default = "/home/user/.cache"; };
    systemd.user.services = mkOption { type = attrsOf (attrsOf settings); default = { }; };
    launchd.agents = mkOption {
      default = { };
      type = attrsOf (submodule {
        enable = mkOption { type = bool; default = false; };
        config = mkOption { type = attrsOf (types.either settings (types.either atom (listOf atom))); default = { }; };
      });
    };
  };
}
