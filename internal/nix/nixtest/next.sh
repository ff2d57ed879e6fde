# shellcheck shell=sh disable=SC2154
# Nix 2.35, as far as the comment of Next says. $real is an older one.

sources() { find "$NIX_STORE_DIR" -maxdepth 1 -name '*-source' 2>/dev/null | sed 's|.*/||'; }

# drop removes the sources that are new since $before, but for those in $1.
drop() {
  for s in $(sources); do
    case " $before $1 " in
      *" $s "*) ;;
      *) nix-store --delete "$NIX_STORE_DIR/$s" >/dev/null 2>&1 ;; # not what something refers to
    esac
  done
}

# context runs the same "nix eval" for the context of its result, in base names.
context() {
  names='builtins.concatStringsSep " " (map baseNameOf (builtins.attrNames (builtins.getContext (builtins.toJSON'
  n=$# last=
  while [ "$n" -gt 0 ]; do
    a=$1 n=$((n - 1))
    shift
    case $last in
      --expr) set -- "$@" "$names ($a)))))" ;;
      --apply) set -- "$@" "it: $names (($a) it)))))" ;;
      *) if [ "$a" = --json ]; then set -- "$@" --raw; else set -- "$@" "$a"; fi ;;
    esac
    last=$a
  done
  "$real" "$@" 2>/dev/null
}

# realisations prints those of $1, each as "PATH JSON".
realisations() {
  "$real" realisation info --json "$1^*" --extra-experimental-features 'nix-command ca-derivations' |
    grep -o '"id":"[^"]*","outPath":"[^"]*"' | tr -d '"' |
    while IFS=, read -r id path; do
      path=${path#outPath:}
      drv=$(nix-store --query --deriver "$NIX_STORE_DIR/$path")
      printf '%s {"key":{"drvPath":"%s","outputName":"%s"},"value":{"outPath":"%s","signatures":[]}}\n' \
        "$path" "${drv##*/}" "${id##*!}" "$path"
    done
}

before=$(sources | tr '\n' ' ')
case "$*" in
  "--version"*) echo 'nix (Nix) 2.35.2' ;;
  "eval --json path:"* | "flake metadata --json --no-write-lock-file path:"*) exec "$real" "$@" ;;
  "path-info --json --json-format 1"*)
    shift 4
    exec "$real" path-info --json "$@"
    ;;
  "eval --json "*)
    "$real" "$@"
    status=$?
    drop "$(context "$@")"
    exit $status
    ;;
  "flake metadata "*)
    "$real" "$@"
    status=$?
    drop ''
    exit $status
    ;;
  "realisation "*)
    echo 'error: it is "nix store build-trace" since 2.35' >&2
    exit 1
    ;;
  "store build-trace info --json "*)
    drv=${5%^*}
    own=$(realisations "$drv")
    [ -n "$own" ] || exit 1
    printf '['
    {
      echo "$own"
      for input in $(nix-store --query --references "$drv" | grep -e '[.]drv$'); do
        realisations "$input" 2>/dev/null
      done
    } | sort | cut -d ' ' -f 2- | tr '\n' ','
    echo "$own" | sort | sed "s|^\([^ ]*\) .*|{\"opaquePath\":\"$NIX_STORE_DIR/\1\"}|" | paste -s -d , | tr -d '\n'
    echo ']'
    ;;
  *) exec "$real" "$@" ;;
esac
