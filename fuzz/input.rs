//! A fuzzer's bytes, taken one after the other; behind their end they are zeros.

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn number(&mut self, bytes: usize) -> u64 {
        let taken = self.bytes(bytes).iter().rev();
        taken.fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// One of `choices`, or now and then a number of so many bytes as it stands.
    pub(crate) fn one_of(&mut self, choices: &[u64], bytes: usize) -> u64 {
        match usize::from(self.byte()) {
            byte if byte < 0xe0 => choices[byte % choices.len()],
            _ => self.number(bytes),
        }
    }
}
