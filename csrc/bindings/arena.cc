// pyengine._core.Arena: tensors whose memory comes from an arena and goes back to it when the last
// tensor that uses it dies, in whichever thread.
//
// They cross to torch as DLPack capsules (dmlc.github.io/dlpack, version 0 of the structure), the
// protocol by which a tensor's memory gets an owner and a deleter without any of torch's headers.
#include "arena.h"

#include <memory>

#include "check.h"
#include "dtype.h"
#include "memory/arena.h"

namespace py = pybind11;
using namespace pyengine;

namespace {

struct DLTensor {
    void* data;
    int32_t device_type, device_id;  // 1: CPU
    int32_t dimensions;
    uint8_t code, bits;  // code 2: IEEE floats, 4: bfloat16
    uint16_t lanes;
    int64_t* shape;
    int64_t* strides;  // null: contiguous
    uint64_t byte_offset;
};

struct DLManagedTensor {
    DLTensor tensor;
    void* owner;
    void (*deleter)(DLManagedTensor*);
};

constexpr size_t kMaxDimensions = 8;
constexpr const char* kCapsule = "dltensor";  // a consumer renames it, and then calls the deleter

struct Lease {
    DLManagedTensor managed;
    std::shared_ptr<Arena> arena;
    int64_t shape[kMaxDimensions];
};

void end_lease(DLManagedTensor* managed) {
    auto* lease = static_cast<Lease*>(managed->owner);
    lease->arena->give(managed->tensor.data);
    delete lease;
}

void end_capsule(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, kCapsule)) return;
    end_lease(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsule)));
}

// A capsule for a contiguous tensor, or None where the arena has no room for it.
py::object empty(const std::shared_ptr<Arena>& arena, const py::tuple& shape, int dtype) {
    static constexpr uint8_t kCode[] = {2, 4, 2}, kBits[] = {32, 16, 16};
    require(dtype >= 0 && dtype < kDTypes, "arena", "no dtype " + std::to_string(dtype));
    require(shape.size() <= kMaxDimensions, "arena", "more than 8 dimensions");
    auto lease = std::make_unique<Lease>();
    int64_t count = 1;
    for (size_t i = 0; i < shape.size(); ++i) {
        lease->shape[i] = shape[i].cast<int64_t>();
        count = checked_count("arena", count, lease->shape[i]);
    }
    void* memory = arena->take(static_cast<size_t>(count) * (kBits[dtype] / 8));
    if (!memory) return py::none();
    lease->arena = arena;
    lease->managed = {.tensor = {.data = memory,
                                 .device_type = 1,
                                 .device_id = 0,
                                 .dimensions = static_cast<int32_t>(shape.size()),
                                 .code = kCode[dtype],
                                 .bits = kBits[dtype],
                                 .lanes = 1,
                                 .shape = lease->shape,
                                 .strides = nullptr,
                                 .byte_offset = 0},
                      .owner = lease.get(),
                      .deleter = end_lease};
    PyObject* capsule = PyCapsule_New(&lease->managed, kCapsule, end_capsule);
    if (!capsule) {
        arena->give(memory);
        throw py::error_already_set();
    }
    lease.release();
    return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

void bind_arena(py::module_& m) {
    py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena")
        .def(py::init<size_t, bool>(), py::arg("reserve"), py::arg("guarded") = true)
        .def("empty", &empty, py::arg("shape"), py::arg("dtype"))
        .def("trim", &Arena::trim)
        .def("statistics", [](const Arena& arena) {
            const Arena::Statistics s = arena.statistics();
            py::dict facts;
            facts["reserved"] = s.reserved;
            facts["used"] = s.used;
            facts["blocks"] = s.blocks;
            facts["peak"] = s.peak;
            facts["touched"] = s.touched;
            return facts;
        });
}
