def share(name=None):
    pass
