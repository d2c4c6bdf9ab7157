class BufferFull(BufferError):
    pass


class BufferEmpty(BufferError):
    pass


class Buffer:
    def __init__(self, capacity):
        self.capacity = capacity
        self.values = []

    def read(self):
        if not self.values:
            raise BufferEmpty("buffer is empty")
        return self.values.pop(0)

    def write(self, value):
        if len(self.values) == self.capacity:
            raise BufferFull("buffer is full")
        self.values.append(value)

    def overwrite(self, value):
        if len(self.values) == self.capacity:
            self.values.pop(0)
        self.values.append(value)

    def clear(self):
        self.values = []
