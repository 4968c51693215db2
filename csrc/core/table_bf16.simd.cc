// An instruction set that is another one with functions of its own for bfloat16: see
// CMakeLists.txt.
#include "table.h"

namespace pyengine {
struct LinearArgs;
struct LinearShare;
}  // namespace pyengine

namespace pyengine::PYENGINE_BASE {
extern const Table kTable;
}

namespace pyengine::PYENGINE_NS {

void linear(const LinearArgs&, const LinearShare&, float* scratch);
int64_t linear_scratch(const LinearArgs&, const LinearShare&);

Table refined() {
    Table table = PYENGINE_BASE::kTable;
    table.name = PYENGINE_ISA_NAME;
    table.linear = linear;
    table.linear_scratch = linear_scratch;
    return table;
}

}  // namespace pyengine::PYENGINE_NS
