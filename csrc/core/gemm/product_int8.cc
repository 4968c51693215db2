#include "gemm/product_int8.h"

#include <atomic>
#include <cstring>
#include <stdexcept>

#include "gemm/int8_products.h"
#include "isa/cpu.h"
#include "table.h"

namespace pyengine {

namespace isa_int8_portable {
extern const Int8Product kProduct;
}
#ifdef PYENGINE_X86
namespace isa_int8_avx2 {
extern const Int8Product kProduct;
}
namespace isa_int8_avx_vnni {
extern const Int8Product kProduct;
}
namespace isa_int8_avx512_vnni {
extern const Int8Product kProduct;
}
namespace isa_int8_amx {
extern const Int8Product kProduct;
}
#endif

namespace {

// From an instruction set's rank on it may use a product: those of PYENGINE_ISA=avx2 use no wider
// registers than its own.
enum Rank { portable, lanes8, lanes16, tiles };

struct Candidate {
    const Int8Product* product;
    bool runs_here;
    const char* needs;
    Rank rank;
};

std::vector<Candidate> candidates() {
    std::vector<Candidate> all;
#ifdef PYENGINE_X86
    const CpuFeatures cpu = cpu_features();
    all.push_back({.product = &isa_int8_amx::kProduct,
                   .runs_here = cpu.amx_int8,
                   .needs = "AMX_TILE and AMX_INT8, and a Linux that lets the process use tiles",
                   .rank = tiles});
    all.push_back({.product = &isa_int8_avx512_vnni::kProduct,
                   .runs_here = cpu.avx512_vnni,
                   .needs = "AVX-512 and AVX512_VNNI",
                   .rank = lanes16});
    all.push_back({.product = &isa_int8_avx_vnni::kProduct,
                   .runs_here = cpu.avx_vnni,
                   .needs = "AVX2 and AVX_VNNI",
                   .rank = lanes8});
    all.push_back({.product = &isa_int8_avx2::kProduct,
                   .runs_here = cpu.avx2,
                   .needs = "AVX2",
                   .rank = lanes8});
#endif
    all.push_back({.product = &isa_int8_portable::kProduct,
                   .runs_here = true,
                   .needs = "",
                   .rank = portable});
    return all;
}

Rank rank_of(const Table& table) {
    if (table.conv2d_bf16) return tiles;
    if (std::strncmp(table.name, "avx512", 6) == 0) return lanes16;
    return std::strcmp(table.name, "portable") == 0 ? portable : lanes8;
}

std::atomic<const Int8Product*> chosen{nullptr};

}  // namespace

const Int8Product& int8_product() {
    if (const Int8Product* product = chosen.load(std::memory_order_relaxed)) return *product;
    static const std::vector<Candidate> all = candidates();
    const Rank rank = rank_of(table());
    for (const Candidate& c : all)
        if (c.runs_here && c.rank <= rank) return *c.product;
    return isa_int8_portable::kProduct;
}

std::vector<std::pair<std::string, std::string>> int8_products() {
    std::vector<std::pair<std::string, std::string>> found;
    for (const Candidate& c : candidates())
        found.emplace_back(c.product->name, c.runs_here ? "" : std::string("needs ") + c.needs);
    return found;
}

void set_int8_product(const std::string& name) {
    if (name.empty()) return chosen.store(nullptr);
    for (const Candidate& c : candidates()) {
        if (name != c.product->name) continue;
        if (!c.runs_here)
            throw std::runtime_error("int8 product \"" + name + "\" needs " + c.needs +
                                     ", which this machine does not have");
        return chosen.store(c.product);
    }
    throw std::invalid_argument("no int8 product \"" + name + "\" in this build");
}

}  // namespace pyengine
