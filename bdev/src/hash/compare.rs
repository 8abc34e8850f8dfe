//! Questions about whole blocks: all zero, and equal.

/// Bytes looked at before asking again whether to go on.
const STRIDE: usize = 256;

/// Whether every byte is zero (true of no bytes at all). A block that is not zero is most often told
/// by its first bytes.
pub fn is_zero_block(block: &[u8]) -> bool {
    let (strides, rest) = block.as_chunks::<STRIDE>();
    strides
        .iter()
        .all(|stride| stride.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Whether two blocks hold the same bytes: what decides, after names were equal, that one block may
/// stand for another.
#[inline]
pub fn blocks_equal(one: &[u8], other: &[u8]) -> bool {
    one == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BLOCK_SIZE;

    #[test]
    fn one_bit_anywhere_makes_a_block_not_zero_and_not_equal() {
        let zero = vec![0u8; BLOCK_SIZE];
        assert!(is_zero_block(&zero));
        assert!(blocks_equal(&zero, &zero.clone()));
        let mut block = zero.clone();
        // Miri takes a tenth of a second for each.
        for at in (0..BLOCK_SIZE).step_by(if cfg!(miri) { 97 } else { 1 }) {
            block[at] = 1 << (at % 8);
            assert!(!is_zero_block(&block), "bit in byte {at} was missed");
            assert!(!blocks_equal(&block, &zero), "bit in byte {at} was missed");
            block[at] = 0;
        }
        assert!(is_zero_block(&block));
    }

    #[test]
    fn odd_lengths_are_looked_at_to_the_end() {
        assert!(is_zero_block(&[]));
        for length in [1, 255, 256, 257, 511, 4095] {
            let mut bytes = vec![0u8; length];
            assert!(is_zero_block(&bytes));
            bytes[length - 1] = 0x80;
            assert!(!is_zero_block(&bytes), "length {length}");
        }
        assert!(!blocks_equal(&[0; 8], &[0; 9]));
    }
}
