# As much of nixpkgs' lib as the modules and the package here need, for tests
# where nixpkgs cannot be had. It is stricter than the original where it is not
# the same: what it does not know is an error.
rec {
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  hasInfix = infix: text: builtins.length (builtins.split (escapeRegex infix) text) > 1;
  escapeRegex = builtins.replaceStrings [ "\\" "." "[" "]" "(" ")" "*" "+" "?" "{" "}" "^" "$" "|" ] [ "\\\\" "\\." "\\[" "\\]" "\\(" "\\)" "\\*" "\\+" "\\?" "\\{" "\\}" "\\^" "\\$" "\\|" ];
  inherit (builtins) concatMap concatStringsSep;
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  toList = value: if builtins.isList value then value else [ value ];
  optionalString = condition: text: if condition then text else "";
  optionalAttrs = condition: attrs: if condition then attrs else { };
  mapAttrsToList = f: attrs: map (name: f name attrs.${name}) (builtins.attrNames attrs);
  toLower = builtins.replaceStrings (chars "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (chars "abcdefghijklmnopqrstuvwxyz");
  chars = text: builtins.genList (i: builtins.substring i 1 text) (builtins.stringLength text);
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  escapeShellArgs = args: concatStringsSep " " (map (arg: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] arg}'") args);
  cleanSource = source: source;
  licenses.mit = "MIT";

  # Conditions and priorities.
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkOption = option: option // { _type = "option"; };
  mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };

  is = type: value: builtins.isAttrs value && (value._type or null) == type;

  # The definitions of one value: conditions and priorities are known now.
  resolve =
    priority: value:
    if is "if" value then
      optionals value.condition (resolve priority value.content)
    else if is "merge" value then
      concatMap (resolve priority) value.contents
    else if is "override" value then
      resolve value.priority value.content
    else
      [ { inherit priority value; } ];

  # Attribute sets, with conditions and priorities moved into their attributes: a
  # condition may depend on an attribute beside it.
  push =
    value:
    if is "if" value then
      map (builtins.mapAttrs (_: mkIf value.condition)) (push value.content)
    else if is "merge" value then
      concatMap push value.contents
    else if is "override" value then
      map (builtins.mapAttrs (_: mkOverride value.priority)) (push value.content)
    else
      [ value ];

  at = name: concatMap (attrs: optional (attrs ? ${name}) attrs.${name});
  namesOf = list: builtins.attrNames (builtins.foldl' (a: b: a // b) { } list);
  show = concatStringsSep ".";

  merge =
    path: type: definitions:
    let
      all = concatMap (resolve 100) definitions;
      strongest = builtins.foldl' (p: d: if d.priority < p then d.priority else p) 9999 all;
      values = map (d: d.value) (builtins.filter (d: d.priority == strongest) all);
      wrong = builtins.filter (value: !type.check value) values;
    in
    if all == [ ] then
      throw "the option ${show path} is used but not defined"
    else if wrong != [ ] then
      throw "a definition of the option ${show path} is not of type ${type.name}"
    else
      type.merge path values;

  same =
    path: values:
    if builtins.all (value: value == builtins.head values) values then
      builtins.head values
    else
      throw "the option ${show path} has conflicting definitions";

  types = rec {
    simple = name: check: { inherit name check; merge = same; };
    bool = simple "bool" builtins.isBool;
    str = simple "str" builtins.isString;
    int = simple "int" builtins.isInt;
    port = simple "port" (value: builtins.isInt value && value >= 0 && value < 65536);
    path = simple "path" (value: builtins.isPath value || builtins.isString value && hasPrefix "/" value);
    package = simple "package" (value: builtins.isAttrs value && value.type or null == "derivation" || builtins.isString value && hasPrefix "/" value);
    listOf = type: {
      name = "listOf ${type.name}";
      check = value: builtins.isList value && builtins.all type.check value;
      merge = _: values: builtins.concatLists values;
    };
    nonEmptyListOf = type: listOf type // {
      name = "nonEmptyListOf ${type.name}";
      check = value: (listOf type).check value && value != [ ];
    };
    attrsOf = type: {
      name = "attrsOf ${type.name}";
      check = builtins.isAttrs;
      merge =
        path: values:
        let
          sets = concatMap push values;
          defined = builtins.filter (name: concatMap (resolve 100) (at name sets) != [ ]) (namesOf sets);
        in
        builtins.listToAttrs (map (name: { inherit name; value = merge (path ++ [ name ]) type (at name sets); }) defined);
    };
    nullOr = type: {
      name = "nullOr ${type.name}";
      check = value: value == null || type.check value;
      merge = path: values: if builtins.elem null values then same path values else type.merge path values;
    };
    either = a: b: {
      name = "either ${a.name} ${b.name}";
      check = value: a.check value || b.check value;
      merge = path: values: if builtins.all a.check values then a.merge path values else b.merge path values;
    };
    oneOf = types: builtins.foldl' either (builtins.head types) (builtins.tail types);
    submodule = options: {
      name = "submodule";
      check = builtins.isAttrs;
      merge = path: values: build path options values;
    };
  };

  # The values of the options in a tree of them.
  build =
    path: options: definitions:
    if is "option" options then
      let
        given = concatMap (resolve 100) definitions;
        # not to be looked at where it is not needed
        all = if given == [ ] then optional (options ? default) { priority = 1500; value = options.default; } else given;
      in
      if (options.readOnly or false) && builtins.length all > 1 then
        throw "the option ${show path} is read-only"
      else
        merge path (options.type or (types.simple "anything" (_: true))) (map (d: mkOverride d.priority d.value) all)
    else
      let
        sets = concatMap push definitions;
        unknown = builtins.filter (name: !options ? ${name}) (namesOf sets);
      in
      if unknown != [ ] then
        throw "the option ${show (path ++ [ (builtins.head unknown) ])} does not exist"
      else
        builtins.mapAttrs (name: option: build (path ++ [ name ]) option (at name sets)) options;

  declare =
    path: a: b:
    if is "option" a || is "option" b then
      throw "the option ${show path} is declared twice"
    else
      a
      // b
      // builtins.mapAttrs (name: _: declare (path ++ [ name ]) a.${name} b.${name}) (builtins.intersectAttrs a b);

  # Of the options in a tree of them, which are defined.
  defined =
    options: definitions:
    if is "option" options then
      { isDefined = concatMap (resolve 100) definitions != [ ]; }
    else
      let
        sets = concatMap push definitions;
      in
      builtins.mapAttrs (name: option: defined option (at name sets)) options;

  # evalModules returns the configuration.
  evalModules =
    { modules, specialArgs }:
    let
      args = specialArgs // { inherit config lib options; };
      lib = import ./lib.nix;
      load =
        module:
        let
          loaded = if builtins.isPath module || builtins.isString module then import module else module;
          called = if builtins.isFunction loaded then loaded (builtins.intersectAttrs (builtins.functionArgs loaded) args) else loaded;
          plain = removeAttrs called [ "_file" "imports" ];
          full = called ? config || called ? options;
          extra = builtins.attrNames (removeAttrs plain [ "config" "options" ]);
        in
        if full && extra != [ ] then
          throw "a module has the attribute ${builtins.head extra} beside config and options"
        else
          concatMap load (called.imports or [ ])
          ++ [ (if full then { options = called.options or { }; config = called.config or { }; } else { options = { }; config = plain; }) ];
      all = concatMap load modules;
      declared = builtins.foldl' (declare [ ]) { } (map (m: m.options) all);
      definitions = map (m: m.config) all;
      config = build [ ] declared definitions;
      options = defined declared definitions;
    in
    config;

  setAttrByPath = path: value: if path == [ ] then value else { ${builtins.head path} = setAttrByPath (builtins.tail path) value; };
  getAttrFromPath = path: attrs: builtins.foldl' (a: name: a.${name}) attrs path;

  renamed =
    from: to: f:
    { config, ... }:
    let
      unset = "_unset";
      value = getAttrFromPath from config;
      isSet = value != unset;
    in
    {
      options = setAttrByPath from (mkOption { default = unset; });
      config = mkMerge [
        { warnings = optional isSet "the option ${show from} is now ${show to}"; }
        (setAttrByPath to (mkIf isSet (f config)))
      ];
    };
  mkChangedOptionModule = renamed;
  mkRenamedOptionModule = from: to: renamed from to (getAttrFromPath from);
}
