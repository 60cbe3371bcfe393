//! Instructions that work on much at once, and where they are.

use std::ops::Range;

use wasm_encoder::InstructionSink;
use wasmparser::{BinaryReaderError, FunctionBody, Operator};

/// How much is done without a break: bytes of memory, and elements of tables and arrays.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub bytes: u32,
    pub elements: u32,
}

/// About a tenth of a millisecond, or some tenths in memory that is used for the first time.
pub(super) const SIZES: Sizes = Sizes { bytes: 1 << 20, elements: 1 << 14 };

/// An instruction of this kind, with where it works.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Fill {
        memory: u32,
    },
    Copy {
        to: u32,
        from: u32,
    },
    Init {
        memory: u32,
        data: u32,
    },
    TableFill {
        table: u32,
    },
    TableCopy {
        to: u32,
        from: u32,
    },
    TableInit {
        table: u32,
        elements: u32,
    },
    /// Arrays are named by their types.
    ArrayFill {
        array: u32,
    },
    ArrayCopy {
        to: u32,
        from: u32,
    },
    ArrayInitData {
        array: u32,
        data: u32,
    },
    ArrayInitElements {
        array: u32,
        elements: u32,
    },
}

impl Work {
    fn of(operator: &Operator<'_>) -> Option<Work> {
        Some(match *operator {
            Operator::MemoryFill { mem } => Work::Fill { memory: mem },
            Operator::MemoryCopy { dst_mem, src_mem } => Work::Copy { to: dst_mem, from: src_mem },
            Operator::MemoryInit { data_index, mem } => Work::Init { memory: mem, data: data_index },
            Operator::TableFill { table } => Work::TableFill { table },
            Operator::TableCopy { dst_table, src_table } => {
                Work::TableCopy { to: dst_table, from: src_table }
            }
            Operator::TableInit { elem_index, table } => Work::TableInit { table, elements: elem_index },
            Operator::ArrayFill { array_type_index } => Work::ArrayFill { array: array_type_index },
            Operator::ArrayCopy { array_type_index_dst, array_type_index_src } => {
                Work::ArrayCopy { to: array_type_index_dst, from: array_type_index_src }
            }
            Operator::ArrayInitData { array_type_index, array_data_index } => {
                Work::ArrayInitData { array: array_type_index, data: array_data_index }
            }
            Operator::ArrayInitElem { array_type_index, array_elem_index } => {
                Work::ArrayInitElements { array: array_type_index, elements: array_elem_index }
            }
            _ => return None,
        })
    }

    pub(super) fn write(self, sink: &mut InstructionSink<'_>) {
        match self {
            Work::Fill { memory } => sink.memory_fill(memory),
            Work::Copy { to, from } => sink.memory_copy(to, from),
            Work::Init { memory, data } => sink.memory_init(memory, data),
            Work::TableFill { table } => sink.table_fill(table),
            Work::TableCopy { to, from } => sink.table_copy(to, from),
            Work::TableInit { table, elements } => sink.table_init(table, elements),
            Work::ArrayFill { array } => sink.array_fill(array),
            Work::ArrayCopy { to, from } => sink.array_copy(to, from),
            Work::ArrayInitData { array, data } => sink.array_init_data(array, data),
            Work::ArrayInitElements { array, elements } => sink.array_init_elem(array, elements),
        };
    }

    /// How much is one piece.
    pub(super) fn piece(self, sizes: Sizes) -> u32 {
        match self {
            Work::Fill { .. } | Work::Copy { .. } | Work::Init { .. } => sizes.bytes,
            _ => sizes.elements,
        }
    }

    /// Which operands are places: the one that is written to, and the one that is read from.
    pub(super) fn places(self) -> &'static [u32] {
        match self {
            Work::Fill { .. } | Work::TableFill { .. } => &[0],
            Work::Copy { .. } | Work::Init { .. } | Work::TableCopy { .. } | Work::TableInit { .. } => {
                &[0, 1]
            }
            // Those before them are arrays.
            Work::ArrayFill { .. } => &[1],
            Work::ArrayCopy { .. } => &[1, 3],
            Work::ArrayInitData { .. } | Work::ArrayInitElements { .. } => &[1, 2],
        }
    }

    /// What is read and what is written can be the same.
    pub(super) fn may_overlap(self) -> bool {
        match self {
            Work::Copy { to, from } | Work::TableCopy { to, from } => to == from,
            Work::ArrayCopy { .. } => true,
            _ => false,
        }
    }
}

/// Calls `found` for each instruction of this kind with its place; not for those that
/// are known to be small, which are faster as they are.
pub(super) fn works(
    sizes: Sizes,
    body: &FunctionBody<'_>,
    mut found: impl FnMut(Work, Range<usize>),
) -> Result<(), BinaryReaderError> {
    let mut operators = body.get_operators_reader()?;
    // That the last operator has put on the stack.
    let mut constant = None;
    while !operators.eof() {
        let start = operators.original_position();
        let operator = operators.read()?;
        if let Some(work) = Work::of(&operator)
            && constant.is_none_or(|count| count > u64::from(work.piece(sizes)))
        {
            found(work, start..operators.original_position());
        }
        constant = match operator {
            Operator::I32Const { value } => Some(u64::from(value as u32)),
            Operator::I64Const { value } => Some(value as u64),
            _ => None,
        };
    }
    Ok(())
}
