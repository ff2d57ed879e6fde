# Reads the output of "go test -json" and prints a line for each package, the
# output of failed tests, the skipped tests with their reasons, and the counts.

# field returns the raw JSON string of a field, or "".
function field(name,    s) {
  if (!match($0, "\"" name "\":\"([^\"\\\\]|\\\\.)*\"")) return ""
  s = substr($0, RSTART, RLENGTH)
  return substr(s, length(name) + 5, length(s) - length(name) - 5)
}

# decoded returns the text that a raw JSON string stands for.
function decoded(s,    out, i, c, hex) {
  out = ""
  while ((i = index(s, "\\")) > 0) {
    out = out substr(s, 1, i - 1)
    c = substr(s, i + 1, 1)
    s = substr(s, i + 2)
    if (c == "n") out = out "\n"
    else if (c == "t") out = out "\t"
    else if (c == "r") out = out "\r"
    else if (c == "u") {
      hex = tolower(substr(s, 1, 4))
      s = substr(s, 5)
      if (hex ~ /^00[2-7]/)
        out = out sprintf("%c", 16 * (index("0123456789abcdef", substr(hex, 3, 1)) - 1) + index("0123456789abcdef", substr(hex, 4, 1)) - 1)
      else
        out = out "\\u" hex
    } else out = out c
  }
  return out s
}

{
  action = field("Action")
  pkg = field("Package")
  test = field("Test")
  key = pkg SUBSEP test
}

action == "build-output" { printf "%s", decoded(field("Output")); next }

action == "output" {
  text = field("Output")
  if (text ~ /^=== /) next
  if (test != "") output[key] = output[key] text
  else if (text ~ /^(ok|FAIL|---) *\\t/) printf "%s", decoded(text)
  else if (text !~ /^(PASS|FAIL|ok|\?)/) output[key] = output[key] text
  next
}

action == "pass" && test != "" { passed++; delete output[key] }

action == "skip" && test != "" {
  skipped++
  skips = skips "  " pkg " " output[key]
  delete output[key]
}

action == "fail" && test != "" {
  failed++
  broken[pkg]++
  printf "%s", decoded(output[key])
  delete output[key]
}

action == "fail" && test == "" {
  # a package that does not build, or that dies outside of a test
  if (!broken[pkg]) failed++
  printf "%s", decoded(output[key])
}

END {
  if (skips != "") printf "\nskipped:\n%s", decoded(skips)
  printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
  # go test's own status is lost in a shell without pipefail
  if (failed > 0 || passed == 0) exit 1
}
