# What a module makes of a configuration, as far as tests look at it.
{
  module,
  config,
  system ? "x86_64-linux",
}:
let
  lib = import ./lib.nix;
  pkgs.stdenv.hostPlatform = {
    inherit system;
    isLinux = lib.hasInfix "linux" system;
    isDarwin = lib.hasInfix "darwin" system;
  };
  result = lib.evalModules {
    modules = [ ./system.nix module config ];
    specialArgs = { inherit pkgs; };
  };
in
{
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) result.assertions);
  inherit (result) warnings;
  inherit (result.nix) settings;
  ports = result.networking.firewall.allowedTCPPorts;
  service = result.systemd.services.nixoci-proxy or null;
  userService = result.systemd.user.services.nixoci-proxy or null;
  daemon = result.launchd.daemons.nixoci-proxy or null;
  agent = result.launchd.agents.nixoci-proxy or null;
  users = result.users;
}
