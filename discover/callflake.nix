# The flake itself, for Nix before 2.26, whose command line has no name for it.
# It is what the command line makes of a flake: the source that Nix has put into
# the store, and the inputs that it has locked. getFlake is no help here. In pure
# evaluation it takes references of locked sources only, which a tree with changes
# in a subfolder has not, and it decodes no name that needs escapes.
{ path, locked, dir, nested, locks ? null }:
let
  inherit (builtins)
    fetchTree foldl' fromJSON intersectAttrs isFunction isList mapAttrs readFile removeAttrs substring;

  # a tarball has no time here
  time = intersectAttrs { lastModified = null; } locked;
  fetched = fetchTree ({ type = "path"; inherit path; inherit (locked) narHash; } // time);
  source = if time == { } then removeAttrs fetched [ "lastModified" "lastModifiedDate" ] else fetched;
  revision = if locked ? rev then { inherit (locked) rev; shortRev = substring 0 7 locked.rev; } else { };
  root = source // revision
    // intersectAttrs { revCount = null; dirtyRev = null; dirtyShortRev = null; } locked
    // (if locked.type == "git" then { submodules = locked.submodules or false; } else { });

  below = base: sub: base + (if sub == "" then "" else "/") + sub;
  lock = if locks != null then locks else fromJSON (readFile (below root dir + "/flake.lock"));

  # An input is the name of a node, or leads there by the names of inputs.
  resolve = input: if isList input then foldl' (node: name: resolve lock.nodes.${node}.inputs.${name}) lock.root input else input;

  nodes = mapAttrs
    (key: node:
      let
        isRoot = key == lock.root;
        sourceInfo = if isRoot then root else fetchTree (node.info or { } // removeAttrs node.locked [ "dir" ]);
        sub = if isRoot then dir else node.locked.dir or "";
        flake = import (below sourceInfo sub + "/flake.nix");
        inputs = mapAttrs (_: input: nodes.${resolve input}) (node.inputs or { });
        outputs = flake.outputs (inputs // { self = result; });
        # since 2.14, a flake in a subfolder is that folder
        place = if nested then { outPath = below sourceInfo sub; _type = "flake"; } else { };
        result = outputs // sourceInfo // place // { inherit inputs outputs sourceInfo; };
      in
      if !(node.flake or true) then sourceInfo
      else assert isFunction flake.outputs; result)
    lock.nodes;
in
nodes.${lock.root}.outputs
