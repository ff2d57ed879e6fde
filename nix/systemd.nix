# What the systemd services of NixOS and of home-manager have in common.
let
  # Text in a unit file, quoted, and with nothing left to expand: "%" starts a
  # specifier everywhere,
  value = builtins.replaceStrings [ "%" ] [ "%%" ];
  quoted = text: value (builtins.toJSON text);
  # and "$" a variable in command lines.
  argument = text: builtins.replaceStrings [ "$" ] [ "$$" ] (quoted text);
in
{
  inherit value quoted argument;

  service = {
    Type = "notify";
    TimeoutStartSec = 120; # the registry may keep it waiting
    WatchdogSec = 60;
    Restart = "always";
    RestartSec = 2;
    RestartPreventExitStatus = 2; # wrong configuration stays wrong

    # It reads a registry and its own directory, and answers HTTP. These work in
    # a user's service, too.
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
    UMask = "0077";
  };
}
