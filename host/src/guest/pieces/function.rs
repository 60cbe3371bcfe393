//! The function that is added to a module for an instruction: it does the same in pieces.

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};

use super::work::Work;

/// A function that does the same as the instruction, which takes `params`. Its locals are
/// these. `step` says how far the place that is read from moves with each element.
pub(super) fn function(work: Work, piece: u32, params: &[ValType], step: u32) -> Function {
    let mut function = Function::new([]);
    let count = params.len() as u32 - 1;
    let mut writer = Writer { sink: function.instructions(), work, piece, params, count, step };
    writer.sink.block(BlockType::Empty);
    writer.leave_if_it_is_one_piece();
    writer.trap_if_it_does();
    if work.may_overlap() {
        writer.last_piece_first();
    }
    writer.first_piece_first();
    writer.sink.end();
    writer.operands();
    writer.sink.local_get(count);
    work.write(&mut writer.sink);
    writer.sink.end();
    function
}

struct Writer<'a> {
    sink: InstructionSink<'a>,
    work: Work,
    piece: u32,
    params: &'a [ValType],
    /// The local that says how many.
    count: u32,
    step: u32,
}

/// A label of the block that encloses all but the end.
const OUT: u32 = 0;

impl Writer<'_> {
    /// What wraps around is left to the instruction itself, which traps, unless the
    /// memory is as large as can be.
    fn leave_if_it_is_one_piece(&mut self) {
        self.is_more_than(self.piece);
        self.sink.i32_eqz().br_if(OUT);
        if self.step > 1 {
            self.is_more_than(u32::MAX / self.step);
            self.sink.br_if(OUT);
        }
        for &place in self.work.places() {
            self.place_after(place, None);
            self.sink.local_get(place);
            match self.type_of(place) {
                ValType::I64 => self.sink.i64_lt_u(),
                _ => self.sink.i32_lt_u(),
            };
            self.sink.br_if(OUT);
        }
    }

    /// Nothing at all, at the end: it is within bounds if all is.
    fn trap_if_it_does(&mut self) {
        self.operands_after_all();
        self.number(self.type_of(self.count), 0);
        self.work.write(&mut self.sink);
    }

    /// What is read must not be overwritten before.
    fn last_piece_first(&mut self) {
        let &[to, from] = self.work.places() else { return };
        self.sink.local_get(to).local_get(from);
        match self.type_of(to) {
            ValType::I64 => self.sink.i64_gt_u(),
            _ => self.sink.i32_gt_u(),
        };
        self.sink.if_(BlockType::Empty).loop_(BlockType::Empty);
        self.one_piece_less();
        self.operands_after_all();
        self.number(self.type_of(self.count), self.piece);
        self.work.write(&mut self.sink);
        self.is_more_than(self.piece);
        self.sink.br_if(0).end().br(OUT + 1).end();
    }

    fn first_piece_first(&mut self) {
        self.sink.loop_(BlockType::Empty);
        self.operands();
        self.number(self.type_of(self.count), self.piece);
        self.work.write(&mut self.sink);
        for &place in self.work.places() {
            self.place_after(place, Some(self.piece));
            self.sink.local_set(place);
        }
        self.one_piece_less();
        self.is_more_than(self.piece);
        self.sink.br_if(0).end();
    }

    fn type_of(&self, local: u32) -> ValType {
        self.params[local as usize]
    }

    /// Puts all but the count on the stack.
    fn operands(&mut self) {
        for local in 0..self.count {
            self.sink.local_get(local);
        }
    }

    /// Puts the same on the stack, of the work that comes after this one.
    fn operands_after_all(&mut self) {
        for local in 0..self.count {
            if self.work.places().contains(&local) {
                self.place_after(local, None);
            } else {
                self.sink.local_get(local);
            }
        }
    }

    /// Puts the place on the stack that is so much after this one, or after all.
    fn place_after(&mut self, place: u32, count: Option<u32>) {
        let of = self.type_of(place);
        let step = if self.work.places().first() == Some(&place) { 1 } else { self.step };
        self.sink.local_get(place);
        match count {
            Some(count) => self.number(of, count * step),
            None => {
                self.sink.local_get(self.count);
                if of == ValType::I64 && self.type_of(self.count) == ValType::I32 {
                    self.sink.i64_extend_i32_u();
                }
                if step > 1 {
                    self.sink.i32_const(step as i32).i32_mul();
                }
            }
        }
        match of {
            ValType::I64 => self.sink.i64_add(),
            _ => self.sink.i32_add(),
        };
    }

    fn one_piece_less(&mut self) {
        let of = self.type_of(self.count);
        self.sink.local_get(self.count);
        self.number(of, self.piece);
        match of {
            ValType::I64 => self.sink.i64_sub(),
            _ => self.sink.i32_sub(),
        };
        self.sink.local_set(self.count);
    }

    fn is_more_than(&mut self, number: u32) {
        let of = self.type_of(self.count);
        self.sink.local_get(self.count);
        self.number(of, number);
        match of {
            ValType::I64 => self.sink.i64_gt_u(),
            _ => self.sink.i32_gt_u(),
        };
    }

    fn number(&mut self, of: ValType, number: u32) {
        match of {
            ValType::I64 => self.sink.i64_const(number.into()),
            _ => self.sink.i32_const(number as i32),
        };
    }
}
