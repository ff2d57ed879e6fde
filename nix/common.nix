# What the modules for NixOS, nix-darwin and home-manager have in common: the
# options, what Nix is told, and the command line. How the proxy is started, and
# how it gets its secrets, is for each of them to say.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkOption types;
  cfg = config.services.nixoci-proxy;

  bracketed = host: if lib.hasInfix ":" host then "[${host}]" else host;
  # where programs on this machine reach it
  host =
    {
      "0.0.0.0" = "127.0.0.1";
      "::" = "::1";
    }
    .${cfg.listenAddress} or cfg.listenAddress;

  secretFile =
    what:
    mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/secrets/nixoci";
      description = ''
        File with ${what}, outside of the Nix store. It is read when the proxy starts.
      '';
    };

  # a file that Nix copies into its store is for everybody to read
  inStore = file: file != null && lib.hasPrefix "${builtins.storeDir}/" (toString file);

  isKey = key: builtins.match "[^:[:space:]]+:[A-Za-z0-9+/]{43}=" key != null;
in
{
  options.services.nixoci-proxy = {
    enable = mkEnableOption "a proxy that serves a Nix binary cache from an OCI registry to this machine";

    package = mkOption {
      type = types.package;
      default = (import ./. { inherit pkgs; }).proxy;
      defaultText = "the proxy of this flake";
      description = "Package with the program {command}`proxy`.";
    };

    cache = mkOption {
      type = types.either types.str (types.nonEmptyListOf types.str);
      example = "ghcr.io/owner/repo/nix-cache";
      description = ''
        The cache: `HOST/NAME` in a registry, or `oci:DIR` for a directory in the OCI image layout,
        which the proxy's user must be able to read. Several are served as one: a path comes from
        the first that has it.
      '';
    };

    listenAddress = mkOption {
      type = types.str;
      default = "127.0.0.1";
      example = "0.0.0.0";
      description = "IP address to serve on. Everybody who reaches it can read the cache.";
    };

    port = mkOption {
      type = types.port;
      default = 37515;
      description = "TCP port to serve on.";
    };

    publicKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "my-cache-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" ];
      description = ''
        Public keys of the cache. Nix takes what one of them has signed, from any substituter.
        Get them from whoever publishes. The proxy serves them at `/public-key`, with the keys
        for which they vouch.
      '';
    };

    requireSignatures = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether Nix takes only what is signed with a key that it trusts. If false, whoever can
        write to the cache can put programs on this machine.
      '';
    };

    upstreams = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "https://cache.nixos.org" ];
      description = ''
        Binary caches that the proxy asks for what the cache lacks. Nix asks its own substituters
        itself, so this is for machines that reach only the proxy.
      '';
    };

    refresh = mkOption {
      type = types.str;
      default = "5m";
      example = "30s";
      description = "Time between looks for what was published.";
    };

    tokenFile = secretFile "a token for ghcr.io that may read packages";

    username = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "User at the cache's registry, together with {option}`passwordFile`.";
    };

    passwordFile = secretFile "the password or token of {option}`username`";

    dockerConfigFile = secretFile "the registry's credentials, as {command}`docker login` writes it, named `config.json`";

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More arguments for the proxy; {command}`proxy --help` has all of them.";
    };

    configureNix = mkOption {
      type = types.bool;
      default = config.nix.enable or true;
      defaultText = "config.nix.enable";
      description = ''
        Whether Nix is told to use the cache, and to build what a substituter does not deliver:
        without `fallback`, builds fail while the proxy is being restarted.
      '';
    };

    # What the modules for the systems make their services from.
    arguments = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      description = "The command line but for the directory of the index's copy.";
    };
    substituter = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      description = "URL of the cache for Nix on this machine.";
    };
  };

  config = lib.mkMerge [
    {
      services.nixoci-proxy = {
        arguments = [
          "${cfg.package}/bin/nixoci"
          "proxy"
          "--listen"
          "${bracketed cfg.listenAddress}:${toString cfg.port}"
          "--refresh"
          cfg.refresh
        ]
        ++ lib.concatMap (cache: [ "--cache" cache ]) (lib.toList cfg.cache)
        ++ lib.concatMap (key: [ "--trusted-key" key ]) cfg.publicKeys
        ++ lib.concatMap (url: [ "--upstream" url ]) cfg.upstreams
        ++ cfg.extraArgs;

        # as the proxy prints it: what Nix remembers of a cache it remembers by URL
        substituter =
          "http://${bracketed host}:${toString cfg.port}" + lib.optionalString (!cfg.requireSignatures) "?trusted=1";
      };
    }

    (lib.mkIf cfg.enable {
      assertions = [
        {
          assertion = cfg.configureNix && cfg.requireSignatures -> cfg.publicKeys != [ ];
          message = ''
            services.nixoci-proxy.publicKeys is empty, so Nix would take nothing from the cache. Name the key
            with which the cache is signed; or set requireSignatures = false, if you trust everybody who can write to the cache.
          '';
        }
        {
          assertion = builtins.all isKey cfg.publicKeys;
          message = ''
            services.nixoci-proxy.publicKeys has something that is no public key such as my-cache-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.
            If it is a secret key, which is longer, make a new one: it is in the Nix store now, where everybody can read it.
          '';
        }
        {
          assertion = (cfg.username == null) == (cfg.passwordFile == null);
          message = "services.nixoci-proxy needs both username and passwordFile, or neither. A token for ghcr.io alone is a tokenFile.";
        }
        {
          assertion = !builtins.any inStore [ cfg.tokenFile cfg.passwordFile cfg.dockerConfigFile ];
          message = ''
            services.nixoci-proxy has a secret in the Nix store, where everybody can read it. Write the file's
            name as a string, as in "/run/secrets/nixoci", and keep the file out of the configuration.
          '';
        }
        {
          assertion = cfg.dockerConfigFile == null || baseNameOf (toString cfg.dockerConfigFile) == "config.json";
          message = "services.nixoci-proxy.dockerConfigFile must have the name config.json, which is the only one that is looked for.";
        }
      ];

      nix.settings = lib.mkIf cfg.configureNix {
        extra-substituters = [ cfg.substituter ];
        extra-trusted-public-keys = cfg.publicKeys;
        fallback = lib.mkDefault true;
      };
    })
  ];
}
