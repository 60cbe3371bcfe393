//! The function that is added to a module for an instruction: it does the same in pieces.

use std::ops::Range;

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};

use super::Work;

/// The locals of an added function: what the instruction takes.
const TO: u32 = 0;
const FROM: u32 = 1;
const COUNT: u32 = 2;

/// A function that does the same as the instruction.
pub fn function(work: Work, piece: u32, params: [ValType; 3]) -> Function {
    let mut function = Function::new([]);
    let mut writer = Writer { sink: function.instructions(), work, piece, params };
    writer.sink.block(BlockType::Empty);
    writer.leave_if_it_is_one_piece();
    writer.trap_if_it_does();
    if work.may_overlap() {
        writer.last_piece_first();
    }
    writer.first_piece_first();
    writer.sink.end();
    for local in [TO, FROM, COUNT] {
        writer.sink.local_get(local);
    }
    work.write(&mut writer.sink);
    writer.sink.end();
    function
}

struct Writer<'a> {
    sink: InstructionSink<'a>,
    work: Work,
    piece: u32,
    params: [ValType; 3],
}

/// A label of the block that encloses all but the end.
const OUT: u32 = 0;

impl Writer<'_> {
    /// What wraps around is left to the instruction itself, which traps, unless the
    /// memory is as large as can be.
    fn leave_if_it_is_one_piece(&mut self) {
        self.is_more_than_a_piece();
        self.sink.i32_eqz().br_if(OUT);
        for place in self.places() {
            self.place_after(place, None);
            self.sink.local_get(place);
            match self.params[place as usize] {
                ValType::I64 => self.sink.i64_lt_u(),
                _ => self.sink.i32_lt_u(),
            };
            self.sink.br_if(OUT);
        }
    }

    /// Nothing at all, at the end: it is within bounds if all is.
    fn trap_if_it_does(&mut self) {
        self.operands_after_all();
        self.number(self.params[COUNT as usize], 0);
        self.work.write(&mut self.sink);
    }

    /// What is read must not be overwritten before.
    fn last_piece_first(&mut self) {
        self.sink.local_get(TO).local_get(FROM);
        match self.params[TO as usize] {
            ValType::I64 => self.sink.i64_gt_u(),
            _ => self.sink.i32_gt_u(),
        };
        self.sink.if_(BlockType::Empty).loop_(BlockType::Empty);
        self.one_piece_less();
        self.operands_after_all();
        self.number(self.params[COUNT as usize], self.piece);
        self.work.write(&mut self.sink);
        self.is_more_than_a_piece();
        self.sink.br_if(0).end().br(OUT + 1).end();
    }

    fn first_piece_first(&mut self) {
        self.sink.loop_(BlockType::Empty);
        self.sink.local_get(TO).local_get(FROM);
        self.number(self.params[COUNT as usize], self.piece);
        self.work.write(&mut self.sink);
        for place in self.places() {
            self.place_after(place, Some(self.piece));
            self.sink.local_set(place);
        }
        self.one_piece_less();
        self.is_more_than_a_piece();
        self.sink.br_if(0).end();
    }

    /// Locals that say where.
    fn places(&self) -> Range<u32> {
        TO..if self.work.has_source() { COUNT } else { FROM }
    }

    /// Puts the first two operands on the stack, of the work that comes after this one.
    fn operands_after_all(&mut self) {
        for local in [TO, FROM] {
            if self.places().contains(&local) {
                self.place_after(local, None);
            } else {
                self.sink.local_get(local);
            }
        }
    }

    /// Puts the place on the stack that is so much after this one, or after all.
    fn place_after(&mut self, place: u32, count: Option<u32>) {
        let of = self.params[place as usize];
        self.sink.local_get(place);
        match count {
            Some(count) => self.number(of, count),
            None => {
                self.sink.local_get(COUNT);
                if of == ValType::I64 && self.params[COUNT as usize] == ValType::I32 {
                    self.sink.i64_extend_i32_u();
                }
            }
        }
        match of {
            ValType::I64 => self.sink.i64_add(),
            _ => self.sink.i32_add(),
        };
    }

    fn one_piece_less(&mut self) {
        let of = self.params[COUNT as usize];
        self.sink.local_get(COUNT);
        self.number(of, self.piece);
        match of {
            ValType::I64 => self.sink.i64_sub(),
            _ => self.sink.i32_sub(),
        };
        self.sink.local_set(COUNT);
    }

    fn is_more_than_a_piece(&mut self) {
        let of = self.params[COUNT as usize];
        self.sink.local_get(COUNT);
        self.number(of, self.piece);
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
