def share(name=None):
    return f"One for {name or 'you'}, one for me."
