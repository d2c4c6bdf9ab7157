import unittest

from ring_buffer import Buffer, BufferEmpty, BufferFull


class RingBufferTest(unittest.TestCase):
    def test_empty(self):
        with self.assertRaises(BufferEmpty) as caught:
            Buffer(1).read()
        self.assertEqual(str(caught.exception), "buffer is empty")

    def test_full(self):
        buffer = Buffer(1)
        buffer.write("a")
        with self.assertRaises(BufferFull) as caught:
            buffer.write("b")
        self.assertEqual(str(caught.exception), "buffer is full")
        self.assertEqual(buffer.read(), "a")

    def test_order(self):
        buffer = Buffer(3)
        buffer.write(1)
        buffer.write(2)
        self.assertEqual(buffer.read(), 1)
        buffer.write(3)
        self.assertEqual(buffer.read(), 2)
        self.assertEqual(buffer.read(), 3)

    def test_overwrites(self):
        buffer = Buffer(2)
        buffer.write(1)
        buffer.write(2)
        buffer.overwrite(3)
        self.assertEqual(buffer.read(), 2)
        self.assertEqual(buffer.read(), 3)
        buffer.overwrite(4)
        self.assertEqual(buffer.read(), 4)

    def test_clears(self):
        buffer = Buffer(2)
        buffer.write(1)
        buffer.clear()
        buffer.write(2)
        self.assertEqual(buffer.read(), 2)
        with self.assertRaises(BufferEmpty):
            buffer.read()


if __name__ == "__main__":
    unittest.main()
