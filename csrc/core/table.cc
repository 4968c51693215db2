#include "table.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "instruction_sets.h"
#include "isa/cpu.h"

namespace pyengine {

namespace isa_portable {
extern const Table kTable;
}
#ifdef PYENGINE_X86
namespace isa_avx2 {
extern const Table kTable;
}
namespace isa_avx512 {
extern const Table kTable;
}
namespace isa_avx512_bf16 {
extern const Bf16Functions kBf16Functions;
}
namespace isa_amx_bf16 {
extern const Bf16Functions kBf16Functions;
}
namespace isa_wide16 {
extern const Table kTable;
}
#endif

namespace {

struct Candidate {
    const Table* table;
    bool runs_here;
    const char* needs;
    bool asked_for;  // chosen by its name alone
};

#ifdef PYENGINE_X86
// `table` but for bfloat16.
Table refined(Table table, const Bf16Functions& own) {
    const int bfloat16 = static_cast<int>(DType::bfloat16);
    table.name = own.name;
    table.attention.of[bfloat16] = own.attention_bf16;
    table.attention_pack.of[bfloat16] = own.attention_bf16_pack;
#define PYENGINE_TAKE(name, result, parameters) table.name = own.name;
    PYENGINE_BFLOAT16_OWN_KERNELS(PYENGINE_TAKE)
    return table;
}
#endif

std::vector<Candidate> candidates() {
    std::vector<Candidate> all;
#ifdef PYENGINE_X86
    const CpuFeatures cpu = cpu_features();
    static const Table amx_bf16 = refined(isa_avx512::kTable, isa_amx_bf16::kBf16Functions);
    static const Table avx512_bf16 = refined(isa_avx512::kTable, isa_avx512_bf16::kBf16Functions);
    all.push_back({.table = &amx_bf16,
                   .runs_here = cpu.amx_bf16,
                   .needs = "AVX512_BF16, AMX_TILE and AMX_BF16, and a Linux that lets the process "
                            "use tiles",
                   .asked_for = false});
    // An Intel Xeon's vdpbf16ps multiplies 0.7 times as fast as its float32 instructions; a Zen 5's
    // twice as fast.
    all.push_back({.table = &avx512_bf16,
                   .runs_here = cpu.avx512_bf16,
                   .needs = "AVX-512 and AVX512_BF16",
                   .asked_for = !cpu.amd});
    all.push_back({.table = &isa_avx512::kTable,
                   .runs_here = cpu.avx512,
                   .needs = "AVX-512 F, BW, DQ and VL, and an operating system that saves ZMM "
                            "registers",
                   .asked_for = false});
    all.push_back({.table = &isa_avx2::kTable,
                   .runs_here = cpu.avx2,
                   .needs = "AVX2, FMA and F16C, and an operating system that saves YMM registers",
                   .asked_for = false});
#endif
    all.push_back(
        {.table = &isa_portable::kTable, .runs_here = true, .needs = "", .asked_for = false});
#ifdef PYENGINE_X86
    all.push_back({.table = &isa_wide16::kTable,
                   .runs_here = cpu.avx2,
                   .needs = "AVX2, FMA and F16C",
                   .asked_for = true});
#endif
    return all;
}

const Table* find(const std::string& name) {
    std::string known;
    for (const Candidate& c : candidates()) {
        if (name == c.table->name) {
            if (!c.runs_here)
                throw std::runtime_error("instruction set \"" + name + "\" needs " + c.needs +
                                         ", which this machine does not have");
            return c.table;
        }
        known += (known.empty() ? "" : ", ") + std::string(c.table->name);
    }
    throw std::invalid_argument("no instruction set \"" + name + "\" in this build; it has " +
                                known);
}

const Table* choose() {
    if (const char* forced = std::getenv("PYENGINE_ISA"); forced && *forced) {
        try {
            return find(forced);
        } catch (const std::exception& error) {
            throw std::runtime_error(std::string("PYENGINE_ISA: ") + error.what());
        }
    }
    for (const Candidate& c : candidates())
        if (c.runs_here && !c.asked_for) return c.table;
    return &isa_portable::kTable;
}

std::atomic<const Table*>& current() {
    static std::atomic<const Table*> table{choose()};
    return table;
}

}  // namespace

const Table& table() {
    return *current().load(std::memory_order_relaxed);
}

std::vector<InstructionSet> instruction_sets() {
    std::vector<InstructionSet> sets;
    for (const Candidate& c : candidates())
        sets.push_back({c.table->name, c.runs_here ? "" : std::string("needs ") + c.needs});
    return sets;
}

void set_instruction_set(const std::string& name) {
    current().store(find(name));
}

}  // namespace pyengine
