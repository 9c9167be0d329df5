"""One member on one set of registers: what an executor does with `Liveness`, without a batch."""

from luciole.transforms.autobatch.ir import Branch, Call, Jump, Return, evaluate
from luciole.transforms.autobatch.liveness import analyse


def run(program, arguments, liveness=None, max_steps=100_000):
    """The results of the main function; a call pushes what `saved` says, and only slots that need a register have one.

    A call that cannot come back to its caller keeps its continuation and what it saves in a place of its own instead of the stack.
    """
    found = liveness or analyse(program)
    main = program.functions[program.main]
    registers, wires, stack, places = {}, {}, [], {}
    blocks = program.blocks

    def read(slot):
        return wires[slot] if slot in wires else registers[slot]

    def assign(slots, values):
        """All at once; a slot that is assigned to itself is left alone, and one without a register is forgotten."""
        for slot, value in list(zip(slots, values, strict=True)):
            if slot in found.registers:
                registers[slot] = value

    assign(main.parameters, arguments)
    block = blocks[main.entry]
    for _ in range(max_steps):
        values = evaluate(block, [registers[s] for s in block.reads])
        wires = dict(zip(block.writes, values, strict=True))
        assign(block.writes, values)
        exit = block.exit
        if isinstance(exit, Jump):
            block = blocks[exit.target]
        elif isinstance(exit, Branch):
            block = blocks[exit.then if read(exit.predicate) else exit.otherwise]
        elif isinstance(exit, Call):
            callee = program.functions[exit.callee]
            frame = (exit.continuation, {s: registers[s] for s in found.saved[block.name] if s in registers})
            stack.append(frame if found.recursive[block.name] else callee.name)
            if not found.recursive[block.name]:
                assert callee.name not in places
                places[callee.name] = frame
            assign(callee.parameters, [read(s) for s in exit.arguments])
            block = blocks[callee.entry]
        elif isinstance(exit, Return):
            assign(program.functions[block.function].results, [read(s) for s in exit.values])
            if not stack:
                return [registers[s] for s in main.results]
            frame = stack.pop()
            continuation, saved = places.pop(frame) if isinstance(frame, str) else frame
            registers.update(saved)
            block = blocks[continuation]
    raise AssertionError("too many steps")
