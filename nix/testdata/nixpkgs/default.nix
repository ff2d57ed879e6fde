{ system }:
let
  lib = import ./lib.nix;
  script =
    attrs: text:
    derivation (
      {
        inherit system;
        builder = "/bin/sh";
        args = [ "-euc" "export HOME=$TMPDIR; ${text}" ];
        PATH = builtins.getEnv "PATH";
        GOTOOLCHAIN = "local";
      }
      // attrs
    );

  # What is downloaded, and compared with vendorHash.
  modules =
    { pname, version, src, vendorHash, ... }:
    script {
      name = "${pname}-${version}-go-modules";
      inherit src;
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";
      outputHash = vendorHash;
      impureEnvVars = [ "GOPROXY" "GOSUMDB" "GOMODCACHE" ];
    } ''
      cp -r "$src" source && chmod -R u+w source && cd source
      go mod vendor
      cp -r vendor "$out"
    '';
in
rec {
  inherit lib;
  go.version = builtins.getEnv "STUB_GO_VERSION";
  buildGoModule =
    { pname, version, src, subPackages, ldflags, env, doCheck, meta, postInstall, ... }@args:
    assert !doCheck;
    script (
      {
        name = "${pname}-${version}";
        inherit src ldflags subPackages;
        vendor = modules args;
        GOFLAGS = "-mod=vendor -trimpath";
        GOPROXY = "off";
        GOCACHE = builtins.getEnv "GOCACHE"; # to be quick
      }
      // env
    ) ''
      cp -r "$src" source && chmod -R u+w source && cd source
      cp -r "$vendor" vendor
      for package in $subPackages; do
        go build -buildvcs=false -ldflags "$ldflags" -o "$out/bin/" "./$package"
      done
      ${postInstall}
    ''
    // {
      inherit meta;
    };
  callPackage =
    file: args:
    let
      f = import file;
    in
    f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // args);
  pkgs = {
    inherit lib go buildGoModule callPackage pkgs stdenv;
  }
  // (if go.version == "1.25.9" then { buildGo126Module = args: buildGoModule (args // { pname = "with-go-1.26"; }); } else { });
  stdenv = {
    hostPlatform = { inherit system; };
    buildPlatform.canExecute = platform: platform.system == builtins.currentSystem;
  };
}
