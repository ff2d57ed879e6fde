# Text in systemd's unit files, quoted, and with nothing left to expand.
rec {
  # "%" starts a specifier everywhere
  value = builtins.replaceStrings [ "%" ] [ "%%" ];
  quoted = text: value (builtins.toJSON text);
  # and "$" a variable in command lines
  argument = text: builtins.replaceStrings [ "$" ] [ "$$" ] (quoted text);
}
