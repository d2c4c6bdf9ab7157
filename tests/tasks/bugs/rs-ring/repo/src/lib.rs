//! A queue of fixed size.

/// Holds up to as many values as it was made for.
pub struct Ring<T> {
    slots: Vec<Option<T>>,
    first: usize,
    count: usize,
}

impl<T> Ring<T> {
    /// A ring for `capacity` values.
    pub fn new(capacity: usize) -> Ring<T> {
        Ring { slots: (0..capacity).map(|_| None).collect(), first: 0, count: 0 }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends a value, or gives it back if there is no room.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.count == self.slots.len() {
            return Err(value);
        }
        let at = (self.first + self.count) % self.slots.len();
        self.slots[at] = Some(value);
        self.count += 1;
        Ok(())
    }

    /// Takes the oldest value.
    pub fn pop(&mut self) -> Option<T> {
        if self.count == 0 {
            return None;
        }
        let value = self.slots[self.first].take();
        self.first = (self.first + 1) % self.count;
        self.count -= 1;
        value
    }
}
