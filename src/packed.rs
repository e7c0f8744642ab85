//! Long texts at half their size: a byte from 128 on stands for a pair of bytes, which may stand for pairs
//! themselves. Packed by the compiler, unpacked where they are wanted.

/// A text, packed. [`packed!`](crate::packed!) makes one.
#[derive(Clone, Copy)]
pub struct Packed(pub &'static [u8]);

impl Packed {
    /// The text, in `room`; nothing where it does not fit.
    #[inline(never)]
    pub fn unpack(self, room: &mut [u8]) -> &[u8] {
        let mut len = 0;
        for &code in self.0 {
            len = spread(code, room, len);
        }
        room.get(..len).unwrap_or_default()
    }
}

/// Puts what `code` stands for at `at`; where it ends. A pair's parts come before it, so this ends.
fn spread(code: u8, room: &mut [u8], at: usize) -> usize {
    let pair = 2 * usize::from(code & 0x7f);
    if code < 128 {
        if let Some(place) = room.get_mut(at) {
            *place = code;
        }
        return at + 1;
    }
    let at = spread(PAIRS.get(pair).copied().unwrap_or_default(), room, at);
    spread(PAIRS.get(pair + 1).copied().unwrap_or_default(), room, at)
}

/// Longest text.
pub const ROOM: usize = 4096;

/// Packs, when the program is compiled. Text is ASCII.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // evaluated by the compiler
pub const fn pack(text: &[u8]) -> ([u8; ROOM], usize) {
    let (mut packed, mut len) = ([0; ROOM], 0);
    while len < text.len() {
        assert!(text[len].is_ascii());
        packed[len] = text[len];
        len += 1;
    }
    let mut pair = 0;
    while pair < PAIRS.len() {
        let (mut from, mut to) = (0, 0);
        while from < len {
            let is_pair = from + 1 < len
                && packed[from] == PAIRS[pair]
                && packed[from + 1] == PAIRS[pair + 1];
            packed[to] = if is_pair {
                128 + (pair / 2) as u8
            } else {
                packed[from]
            };
            from += if is_pair { 2 } else { 1 };
            to += 1;
        }
        len = to;
        pair += 2;
    }
    (packed, len)
}

/// The first `N` bytes.
#[allow(clippy::indexing_slicing)] // evaluated by the compiler
pub const fn cut<const N: usize>(whole: &[u8]) -> [u8; N] {
    let (mut bytes, mut at) = ([0; N], 0);
    while at < N {
        bytes[at] = whole[at];
        at += 1;
    }
    bytes
}

/// A [`Packed`] of a constant text.
#[macro_export]
macro_rules! packed {
    ($text:expr) => {{
        #[allow(long_running_const_eval)]
        const WHOLE: ([u8; $crate::packed::ROOM], usize) = $crate::packed::pack($text);
        const LEN: usize = WHOLE.1;
        static PACKED: [u8; LEN] = $crate::packed::cut(&WHOLE.0);
        $crate::packed::Packed(&PACKED)
    }};
}

/// The pairs, 128 at the most: the commonest one of the texts joined again and again. Another choice costs bytes,
/// nothing else; a test tells a better one when they are much worse than could be.
const PAIRS: [u8; 256] = [
    105, 100, 32, 32, 105, 110, 115, 32, 111, 114, 128, 58, 101, 114, 101, 58, 111, 110, 101, 115,
    130, 117, 138, 120, 76, 139, 97, 116, 58, 42, 116, 114, 101, 32, 102, 133, 145, 70, 146, 128,
    129, 129, 97, 109, 9, 84, 54, 52, 147, 9, 97, 108, 116, 32, 10, 49, 51, 50, 58, 91, 97, 114,
    58, 117, 60, 39, 160, 97, 110, 149, 111, 117, 105, 116, 105, 99, 101, 116, 114, 101, 161, 62,
    83, 143, 169, 168, 32, 115, 100, 101, 108, 111, 111, 111, 108, 101, 109, 97, 118, 165, 162,
    135, 115, 116, 105, 108, 32, 116, 9, 152, 58, 131, 114, 111, 101, 100, 178, 170, 101, 99, 97,
    112, 115, 10, 105, 136, 130, 100, 97, 103, 151, 32, 110, 116, 110, 111, 105, 109, 112, 134,
    121, 32, 115, 157, 117, 156, 159, 156, 68, 101, 202, 177, 101, 109, 186, 9, 97, 110, 191, 111,
    207, 119, 32, 99, 114, 99, 10, 140, 10, 50, 45, 45, 111, 108, 87, 208, 163, 210, 188, 112, 97,
    100, 114, 137, 97, 99, 10, 129, 221, 213, 105, 115, 101, 108, 142, 117, 99, 107, 215, 115, 10,
    51, 173, 103, 101, 131, 105, 103, 116, 104, 105, 193, 141, 143, 117, 115, 101, 110, 97, 98, 99,
    116, 159, 151, 132, 121, 32, 102, 172, 102, 117, 108, 32, 195, 148, 148, 142, 140, 58, 189,
    103, 133, 141, 104, 32, 112, 115, 136, 184, 116, 108, 192, 130, 107, 100, 105,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_whole_or_not_at_all() {
        const TEXT: &[u8] =
            b"Linux devices:[LinuxDevice memory:*LinuxMemory\tfid:Fid\tname:Str\n% \\x";
        let packed = crate::packed!(TEXT);
        assert!(packed.0.len() < TEXT.len() * 2 / 3);
        assert_eq!(packed.unpack(&mut [0; ROOM]), TEXT);
        assert_eq!(packed.unpack(&mut [0; 5]), b"");
    }

    /// Pairs chosen afresh for `texts`, and what the texts take with them.
    fn best(mut texts: Vec<Vec<u8>>) -> (Vec<u8>, usize) {
        let mut pairs = Vec::new();
        for code in 128..=255 {
            let mut counts = std::collections::BTreeMap::new();
            for pair in texts.iter().flat_map(|text| text.windows(2)) {
                *counts.entry([pair[0], pair[1]]).or_insert(0) += 1;
            }
            let (pair, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
            pairs.extend(pair);
            for text in &mut texts {
                let mut at = 0;
                while at + 1 < text.len() {
                    if text[at..at + 2] == pair {
                        text.splice(at..at + 2, [code]);
                    }
                    at += 1;
                }
            }
        }
        (pairs, texts.iter().map(Vec::len).sum())
    }

    #[test]
    fn pairs_are_within_a_tenth_of_the_best_for_the_longest_texts() {
        let texts = [crate::spec::SCHEMA, crate::p9::messages::LAYOUTS].map(str::as_bytes);
        let (better, least) = best(texts.iter().map(|text| text.to_vec()).collect());
        let taken: usize = texts.iter().map(|text| pack(text).1).sum();
        assert!(
            taken * 10 <= least * 11,
            "{taken} bytes; with {better:?} {least}"
        );
    }
}
