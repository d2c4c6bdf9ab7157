def transpose(text):
    lines = text.split("\n")
    rows = []
    for i in range(max(len(line) for line in lines)):
        last = max(j for j, line in enumerate(lines) if len(line) > i)
        rows.append("".join(line[i] if i < len(line) else " " for line in lines[:last + 1]))
    return "\n".join(rows)
