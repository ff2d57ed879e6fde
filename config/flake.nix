# The example: what "publish --flake ./config" finds, builds and publishes.
#
# It has no inputs and needs no network. Its builders are the host's own shell
# and coreutils, so Nix's sandbox must be off ("sandbox = false"). For a cache of
# your own, replace it by your flake: anything with packages, checks, devShells,
# apps or system configurations will do.
{
  description = "An example of everything that can be published";

  outputs =
    { self }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forEach = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) systems);

      # A derivation whose builder is a shell script.
      script = system: name: attrs: text: derivation ({
        inherit name system;
        builder = "/bin/sh";
        args = [ "-euc" text ];
        PATH = "/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin";
        LC_ALL = "C";
      } // attrs);

      packagesFor = system: rec {
        default = hello;

        # Some megabytes that do not compress to nothing, the same every time.
        numbers = script system "numbers" { } ''
          seq 1000000 > source
          mkdir -p $out/share
          shuf -i 100000-799999 --random-source=source > $out/share/numbers
        '';

        # Two outputs: who builds with it needs dev, who runs it needs out only.
        greeting = script system "greeting" { outputs = [ "out" "dev" ]; } ''
          mkdir -p $out/share $dev/lib
          echo "Hello from an OCI registry!" > $out/share/greeting
          echo "greeting=$out/share/greeting" > $dev/lib/greeting.conf
        '';

        # It reads files of other store paths when it runs: it works only where
        # its whole closure is.
        hello = script system "hello" { inherit (greeting) dev; inherit numbers; } ''
          . $dev/lib/greeting.conf
          mkdir -p $out/bin
          cat > $out/bin/hello <<END
          #!/bin/sh
          read -r text < $greeting
          read -r number < $numbers/share/numbers
          echo "\$text"
          echo "I am $out/bin/hello, and my lucky number is \$number."
          END
          chmod +x $out/bin/hello
        '';

        # Everything in one folder, as an installation would be.
        everything = script system "everything" { inherit hello numbers; } ''
          mkdir -p $out/share
          ln -s $hello/bin $out/bin
          ln -s $numbers/share/numbers $out/share/numbers
        '';
      };

      # What "nixos-rebuild" takes from a flake, without the operating system.
      machine = system: {
        config.system.build.toplevel = script system "nixos-system-example" { inherit (self.packages.${system}) everything; } ''
          mkdir -p $out/etc
          ln -s $everything $out/sw
          echo "hello" > $out/etc/motd
          echo "${system}" > $out/system
        '';
      };
    in
    {
      packages = forEach packagesFor;

      checks = forEach (system: {
        hello = script system "check-hello" { inherit (self.packages.${system}) hello; } ''
          $hello/bin/hello > $out
          read -r line < $out
          [ "$line" = "Hello from an OCI registry!" ]
        '';
      });

      # "nix develop ./config --command hello". It insists on bash, and on outputs
      # being named.
      devShells = forEach (system: {
        default = script system "shell" {
          inherit (self.packages.${system}) hello;
          builder = "/bin/bash";
          outputs = [ "out" ];
          shellHook = "PATH=$hello/bin:$PATH";
        } "echo $hello > $out";
      });

      apps = forEach (system: {
        default = { type = "app"; program = "${self.packages.${system}.hello}/bin/hello"; };
      });

      # "nix fmt": spaces for tabs.
      formatter = forEach (system: script system "format" { } ''
        mkdir -p $out/bin
        cat > $out/bin/format <<'END'
        #!/bin/sh
        set -eu
        for file; do
          expand -i -t 2 "$file" > "$file.new"
          cat "$file.new" > "$file"
          rm "$file.new"
        done
        END
        chmod +x $out/bin/format
      '');

      nixosConfigurations = {
        example = machine "x86_64-linux";
        example-arm = machine "aarch64-linux";
      };
    };
}
