# What a flake has to build and publish. Applied to the arguments that
# evaluate.go writes and then to the flake; the result is for decode.go.
#
# What is found is told at once, by traces (say), as what is only in the result is
# lost when the process ends. tryEval catches throw, assert and a missing <path>,
# and nothing else: any other error ends the evaluation. So "visit" says what it
# looks at before it does ("at"), and can begin behind that. "examine" looks at one
# node without a safety net: the names below it, which forces none of their values,
# or the leaf, or Nix's message.
args: flake:
let
  inherit (builtins)
    all any attrNames concatMap concatStringsSep deepSeq elem elemAt filter foldl' genList getContext head isAttrs
    isList isString length listToAttrs match substring tail toJSON trace tryEval unsafeDiscardStringContext;

  # The caller tells these from what the flake traces by the mark, which the flake
  # does not see.
  say = message: trace (args.mark + toJSON message);

  force = x: tryEval (deepSeq x x);
  attempt = default: x: let r = force x; in if r.success then r.value else default;
  str = x: if isString x then unsafeDiscardStringContext x else null;
  last = l: elemAt l (length l - 1);

  # A machine with this system builds derivations for that one as well.
  builds = system: system == "builtin" || elem system args.systems
    || system == "i686-linux" && elem "x86_64-linux" args.systems;

  # Patterns are lists of regular expressions, one for each name of an
  # attribute path. The system may be left out, and a pattern of one name also
  # stands for the attribute's own name.
  forms = p: [ p ] ++ (
    if length p > 1 && layout.${head p}.perSystem then [ ([ (head p) ] ++ tail (tail p)) ] else [ ]);
  agree = pattern: p: n: all (i: match (elemAt pattern i) (elemAt p i) != null) (genList (i: i) n);
  min = a: b: if a < b then a else b;
  covers = p: pattern:
    any (f: length pattern <= length f && agree pattern f (length pattern)) (forms p)
    || length pattern == 1 && match (head pattern) (last p) != null;
  mayCover = p: pattern:
    length pattern == 1 || any (f: agree pattern f (min (length pattern) (length f))) (forms p);
  excluded = w: p:
    any (covers p) args.exclude
    || args.include != [ ] && !(any ((if w ? below then mayCover else covers) p) args.include);

  skip = node: attr: reason: [ { inherit node attr; skip = reason; } ];

  # Walkers. look returns the records of a leaf, or the names of the members of a
  # set; below is the walker for these, if there may be any; bare is look for a
  # leaf with no error caught. visit returns what the result must depend on.

  visit = w: p: v: from:
    let
      seen = w.look p v;
      found = members w p seen.names;
      order = if args.backward then genList (i: elemAt found.names (length found.names - 1 - i)) (length found.names) else found.names;
      # from is where to begin below p
      rest = if from == [ ] then order
        else filter (n: if args.backward then n <= head from else n >= head from) order;
      member = n: visit w.below (p ++ [ n ]) v.${n} (if from != [ ] && n == head from then tail from else [ ]);
    in
    say { at = p; } (
      if seen ? records then say { of = p; inherit (seen) records; } (keep seen.records)
      else (if from == [ ] then say ({ of = p; } // found) else x: x) (foldl' (kept: n: kept + member n) "" rest));

  members = w: p: names: {
    names = filter (n: !(excluded w.below (p ++ [ n ]))) names;
    excluded = filter (n: excluded w.below (p ++ [ n ])) names;
  };

  # Since 2.35, Nix leaves a source in the store only if the result depends on
  # it. What is said has no context, so that of an app's program is kept in an
  # empty string.
  keep = records: concatStringsSep "" (map (r: r.keep or "") records);

  set = below: {
    inherit below;
    look = p: v:
      let names = force (if isAttrs v then attrNames v else null); in
      if !names.success then { records = skip p p "throws"; }
      else if names.value == null then { records = skip p p "notDerivation"; }
      else { names = names.value; };
  };

  system = w: w // {
    look = p: v: if elem (last p) args.systems then w.look p v
      else { records = [ { node = p; attr = p; skip = "system"; system = last p; } ]; };
  };

  isDerivation = v: isAttrs v && (v.type or null) == "derivation";

  flags = v:
    let licenses = v.meta.license or [ ]; in {
      broken = attempt false ((v.meta.broken or false) == true);
      unfree = attempt false ((v.meta.unfree or false) == true
        || any (l: isAttrs l && (l.free or true) == false) (if isList licenses then licenses else [ licenses ]));
    };

  outputsOf = v: listToAttrs (map
    (o: { name = o; value = str (v.${o}.outPath or (if o == "out" then v.outPath else null)); })
    (v.outputs or [ "out" ]));

  # The derivations and files that a string depends on. Paths of outputs are
  # not known here: null.
  needsOf = context: {
    needs = concatMap
      (d: let c = context.${d}; in
        if c ? outputs then [ { drv = d; outputs = listToAttrs (map (name: { inherit name; value = null; }) c.outputs); } ]
        else if c.allOutputs or false then [ { drv = d; outputs = { }; } ]
        else [ ])
      (attrNames context);
    sources = filter (d: !(context.${d} ? outputs) && context.${d}.path or false) (attrNames context);
  };

  derivationWith = extra: at: rec {
    bare = p: v: [ ({ node = p; attr = p ++ at; name = v.name or null; system = v.system or null;
      drv = str v.drvPath; outputs = outputsOf v; }) ];
    look = p: v: { records = records p v; };
    records = p: v:
      let
        what = force (isDerivation v);
        attr = p ++ at;
        sys = attempt null (str (v.system or null));
        drv = force (str v.drvPath);
        more = flags v;
      in
      if !what.success then skip p attr "throws"
      else if !what.value then skip p attr "notDerivation"
      else if sys != null && !(builds sys) then [ { node = p; inherit attr; skip = "system"; system = sys; } ]
      else if !drv.success then [ (more // { node = p; inherit attr; skip = "throws"; system = sys; }) ]
      else [ (more // extra v // {
        node = p; inherit attr; system = sys; drv = drv.value;
        name = attempt null (str (v.name or null)); outputs = attempt { } (outputsOf v);
      }) ];
  };
  leaf = derivationWith (v: { }) [ ];

  # "nix develop" builds a variant of the shell's derivation, so it needs what
  # goes into that: inputDerivation is there for this in nixpkgs; for any other
  # shell it is the context of the attributes.
  shell = derivationWith
    (v:
      let input = force (if v ? inputDerivation then
        [ { drv = str v.inputDerivation.drvPath; outputs = outputsOf v.inputDerivation; } ] else null);
      in if input.success && input.value != null then { needs = input.value; }
      else { inherit (attempt { needs = [ ]; } (needsOf (getContext (toJSON (v.drvAttrs or null))))) needs; }) [ ];

  app = rec {
    bare = p: v: [ (needsOf (getContext v.program) // {
      node = p; attr = p; system = elemAt p 1; name = elemAt p (if length p > 2 then 2 else 0); keep = substring 0 0 v.program;
    }) ];
    look = p: v:
      let what = force (isAttrs v && isString (v.program or null)); in {
        records =
          if !what.success then skip p p "throws"
          else if !what.value then skip p p "notDerivation"
          else attempt (skip p p "throws") (bare p v);
      };
  };

  configuration = at: get:
    let w = derivationWith (v: { }) at; in {
      bare = p: v: w.bare p (get v);
      look = p: v: let r = tryEval (get v); in
        if r.success then w.look p r.value else { records = skip p (p ++ at) "throws"; };
    };

  # hydraJobs may be any tree; the bound is against a set that contains itself.
  tree = isRoot: all: {
    below = tree false all;
    inherit (leaf) bare;
    look = p: v:
      let what = force (
        if !(isAttrs v) then "other" else if isDerivation v then "leaf"
        else if isRoot || all || (v.recurseForDerivations or false) == true then "set" else "other");
      in
      if !what.success then { records = skip p p "throws"; }
      else if what.value == "leaf" then
        if args.include != [ ] && !(any (covers p) args.include) then { records = skip p p "excluded"; } else leaf.look p v
      else if what.value == "set" && length p < 16 then { names = attrNames v; }
      else { records = [ ]; };
  };

  perSystem = w: set (system w) // { perSystem = true; };
  flat = w: set w // { perSystem = false; };
  layout = {
    packages = perSystem (set leaf);
    checks = perSystem (set leaf);
    devShells = perSystem (set shell);
    apps = perSystem (set app);
    formatter = perSystem leaf;
    legacyPackages = perSystem (tree true false);
    nixosConfigurations = flat (configuration [ "config" "system" "build" "toplevel" ] (v: v.config.system.build.toplevel));
    darwinConfigurations = flat (configuration [ "config" "system" "build" "toplevel" ] (v: v.config.system.build.toplevel));
    homeConfigurations = flat (configuration [ "activationPackage" ] (v: v.activationPackage));
    hydraJobs = tree true true // { perSystem = false; };

    # what older flakes have, and "nix build", "nix develop" and "nix run" still take
    defaultPackage = perSystem leaf;
    devShell = perSystem shell;
    defaultApp = perSystem app;
  };

  # at calls f with the walker, the path and the value of a node.
  at = path: f:
    let go = w: p: v: rest: if rest == [ ] then f w p v
      else go w.below (p ++ [ (head rest) ]) v.${head rest} (tail rest);
    in go layout.${head path} [ (head path) ] flake.${head path} (tail path);

  # has tells whether there is something at a path, forcing what is above it.
  has = v: path: path == [ ] || v ? ${head path} && has v.${head path} (tail path);

  task = path: from: at path (w: p: v:
    if excluded w p then say { of = p; records = skip p p "excluded"; } "" else visit w p v from);
in
{
  find = filter (has flake) args.paths;
  visit =
    let tasks = filter (t: flake ? ${head t}) args.tasks; in
    say { of = [ ]; names = attrNames flake; } (
      foldl' (kept: t: kept + task t (if t == head args.tasks then args.from else [ ])) "" tasks);
  examine = at args.path (w: p: v:
    if w ? below && !(isDerivation v) then say ({ of = p; } // members w p (attrNames v)) ""
    else
      let bare = w.bare p v; in
      say { of = p; inherit bare; } (say { of = p; inherit (w.look p v) records; } (keep bare)));
}.${args.op}
