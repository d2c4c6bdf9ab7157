def balanced(text):
    pass
