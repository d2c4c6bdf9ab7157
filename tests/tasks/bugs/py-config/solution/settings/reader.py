"""Reads settings: one `name = value` a line, with comments after `#`."""


def parse_line(line):
    """The name and the value in a line, or nothing."""
    line = line.split("#")[0].strip()
    if not line:
        return None
    name, value = line.split("=", 1)
    return name.strip(), value.strip()


def parse(text):
    settings = {}
    for line in text.splitlines():
        pair = parse_line(line)
        if pair is not None:
            settings[pair[0]] = pair[1]
    return settings
