def valid(text):
    pass
