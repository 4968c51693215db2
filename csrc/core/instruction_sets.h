// Which tables this build has, which run here, and choosing one by name. Apart from table.h, which
// vector code includes: that sees no std:: headers.
#pragma once

#include <string>
#include <vector>

namespace pyengine {

struct InstructionSet {
    std::string name;
    std::string unavailable;  // why it does not run here; empty if it does
};

// Every instruction set of this build, the best first. Never chosen but by name: wide16, which is
// for tests, and avx512_bf16 on other CPUs than AMD's.
std::vector<InstructionSet> instruction_sets();

// Makes table() return the named one. Not to be called while kernels run.
// Throws std::invalid_argument for an unknown name and std::runtime_error for an unavailable one.
void set_instruction_set(const std::string& name);

}  // namespace pyengine
