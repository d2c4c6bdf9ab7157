"""Values with a type."""


def as_bool(value):
    lowered = value.lower()
    if lowered in ("yes", "true", "on", "1"):
        return True
    if lowered in ("no", "false", "off", "0"):
        return False
    raise ValueError(f"{value!r} is neither yes nor no")


def as_list(value):
    return [part.strip() for part in value.split(",") if part.strip()]
