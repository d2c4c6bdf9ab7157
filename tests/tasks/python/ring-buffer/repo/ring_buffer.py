class BufferFull(BufferError):
    pass


class BufferEmpty(BufferError):
    pass


class Buffer:
    def __init__(self, capacity):
        pass

    def read(self):
        pass

    def write(self, value):
        pass

    def overwrite(self, value):
        pass

    def clear(self):
        pass
