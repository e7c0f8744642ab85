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
    32, 32, 105, 100, 129, 58, 116, 114, 128, 128, 111, 110, 130, 70, 134, 129, 109, 101, 102, 135,
    97, 116, 114, 101, 9, 84, 111, 114, 137, 9, 101, 114, 10, 49, 101, 32, 100, 101, 60, 39, 147,
    97, 115, 32, 58, 117, 116, 32, 148, 62, 110, 97, 131, 152, 83, 154, 153, 136, 105, 110, 97,
    108, 48, 32, 110, 111, 58, 155, 45, 45, 108, 111, 51, 50, 97, 110, 32, 116, 32, 115, 101, 116,
    58, 159, 9, 142, 156, 161, 108, 97, 108, 101, 150, 164, 171, 9, 128, 162, 110, 101, 100, 32,
    10, 176, 115, 116, 10, 50, 121, 32, 141, 32, 133, 32, 117, 110, 117, 108, 102, 105, 100, 105,
    99, 116, 99, 104, 163, 103, 146, 102, 111, 111, 10, 51, 192, 97, 195, 186, 172, 103, 138, 131,
    132, 132, 99, 107, 197, 115, 174, 9, 150, 54, 203, 52, 112, 101, 108, 145, 105, 99, 102, 201,
    40, 196, 209, 151, 193, 32, 138, 105, 116, 104, 115, 105, 111, 102, 101, 120, 48, 140, 41, 179,
    144, 50, 143, 109, 114, 111, 100, 142, 97, 114, 97, 32, 45, 102, 32, 160, 204, 9, 187, 206,
    146, 118, 130, 71, 230, 129, 117, 130, 115, 121, 109, 111, 103, 231, 101, 100, 99, 133, 52,
    140, 9, 222, 212, 136, 240, 169, 198, 170, 188, 114, 157, 107, 143, 114, 118, 158, 115, 111,
    114, 105, 108, 244, 97, 100, 56, 140, 44, 32, 239, 175, 232, 85, 254, 129,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_whole_or_not_at_all() {
        const TEXT: &[u8] = b"Tlopen\tfid:Fid\tflags:u32\nTlcreate\tfid:Fid\tname:Str\n% \\x";
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
    fn pairs_are_within_a_tenth_of_the_best_for_the_texts() {
        let texts = [
            crate::cli::HELP.as_bytes(),
            crate::cli::GLOBAL_HELP.as_bytes(),
            crate::p9::messages::LAYOUTS.as_bytes(),
            crate::errno::TEXTS,
            crate::mounts::OPTIONS,
        ];
        let (better, least) = best(texts.iter().map(|text| text.to_vec()).collect());
        let taken: usize = texts.iter().map(|text| pack(text).1).sum();
        assert!(
            taken * 10 <= least * 11,
            "{taken} bytes; with {better:?} {least}"
        );
    }
}
