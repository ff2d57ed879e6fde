# Environment variables for a service that can read the files with the secrets
# itself.
{ lib, cfg }:
lib.optionalAttrs (cfg.tokenFile != null) { GITHUB_TOKEN_FILE = toString cfg.tokenFile; }
// lib.optionalAttrs (cfg.username != null) { NIXOCI_USERNAME = cfg.username; }
// lib.optionalAttrs (cfg.passwordFile != null) { NIXOCI_PASSWORD_FILE = toString cfg.passwordFile; }
// lib.optionalAttrs (cfg.dockerConfigFile != null) { DOCKER_CONFIG = dirOf (toString cfg.dockerConfigFile); }
