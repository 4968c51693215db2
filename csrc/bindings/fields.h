// The kernels' structs of arguments as Python classes: each field is given by its name, once.
//
//   core.layer_norm(core.LayerNormArgs(x=address, y=address, rows=4, width=320, eps=1e-5), 0, 2)
//
// Addresses and flags that are left out are null and False; all other fields have to be given. An
// object holds addresses and no tensors, whose owner is the caller, and can be passed any number of
// times: a recording (pyengine/ops/_replay.py) keeps it and converts nothing anew.
//
// They are types of CPython's own, since keywords cost pybind11's functions 0.2 us each. Names that
// come in the fields' order are found here by one comparison of pointers.
#pragma once

#include <pybind11/pybind11.h>
#include <stddef.h>
#include <stdint.h>

#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dtype.h"
#include "gemm/pairs.h"

namespace pyengine {

// --- values: each read() returns false with a Python error set -----------------------------------

template <class T>
bool read(PyObject* value, T*& to) {
    const unsigned long long address = PyLong_AsUnsignedLongLong(value);
    to = reinterpret_cast<T*>(static_cast<uintptr_t>(address));
    return address != static_cast<unsigned long long>(-1) || !PyErr_Occurred();
}

inline bool read(PyObject* value, int64_t& to) {
    to = PyLong_AsLongLong(value);
    return to != -1 || !PyErr_Occurred();
}

inline bool read(PyObject* value, double& to) {
    to = PyFloat_AsDouble(value);
    return to != -1 || !PyErr_Occurred();
}

inline bool read(PyObject* value, float& to) {
    double wide;
    if (!read(value, wide)) return false;
    to = static_cast<float>(wide);
    return true;
}

inline bool read(PyObject* value, bool& to) {
    to = value == Py_True;
    if (to || value == Py_False) return true;
    PyErr_SetString(PyExc_TypeError, "expected True or False");
    return false;
}

template <size_t Count>
bool read(PyObject* value, int64_t (&to)[Count]) {
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != static_cast<Py_ssize_t>(Count)) {
        PyErr_Format(PyExc_TypeError, "expected a tuple of %zu numbers", Count);
        return false;
    }
    for (size_t i = 0; i < Count; ++i)
        if (!read(PyTuple_GET_ITEM(value, i), to[i])) return false;
    return true;
}

// An enumeration's number, below count.
template <class Code>
bool read_code(PyObject* value, int count, const char* what, Code& to) {
    int64_t code;
    if (!read(value, code)) return false;
    if (code < 0 || code >= count) {
        PyErr_Format(PyExc_ValueError, "no %s %lld", what, static_cast<long long>(code));
        return false;
    }
    to = static_cast<Code>(code);
    return true;
}

inline bool read(PyObject* value, DType& to) {
    return read_code(value, kDTypes, "dtype", to);
}

// A weight's: int8 as well, and bfloat16 in pairs.
inline bool read_weight_dtype(PyObject* value, DType& to) {
    return read_code(value, static_cast<int>(kBFloat16Pairs) + 1, "dtype", to);
}

// --- fields --------------------------------------------------------------------------------------

struct Field {
    const char* name;
    bool (*set)(void* args, PyObject* value);
    bool required;
    PyObject* interned;
};

template <class Member>
struct MemberOf;
template <class Args, class T>
struct MemberOf<T Args::*> {
    using Struct = Args;
    using Type = T;
};

// Member: &Struct::name. Read: how its value is read, null for read().
template <auto Member, auto Read = nullptr>
Field field(const char* name) {
    using Struct = typename MemberOf<decltype(Member)>::Struct;
    using Type = typename MemberOf<decltype(Member)>::Type;
    const auto set = [](void* args, PyObject* value) {
        auto& to = static_cast<Struct*>(args)->*Member;
        if constexpr (std::is_null_pointer_v<decltype(Read)>)
            return read(value, to);
        else
            return Read(value, to);
    };
    const bool optional = std::is_pointer_v<Type> || std::is_same_v<Type, bool>;
    return {name, set, !optional, nullptr};
}

// The class of one struct; a module has one for each.
template <class Args>
class ArgsClass {
 public:
    // summary: what its kernels compute.
    static void bind(pybind11::module_& module, const char* name, const char* summary,
                     std::vector<Field> fields) {
        name_ = name;
        fields_ = std::move(fields);
        for (Field& field : fields_) field.interned = PyUnicode_InternFromString(field.name);
        const std::string qualified = std::string(PyModule_GetName(module.ptr())) + "." + name;
        qualified_ = qualified;
        const std::string text = signature() + "\n--\n\n" + summary;
        PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>(text.c_str())},
                               {Py_tp_dealloc, reinterpret_cast<void*>(&dealloc)},
                               {0, nullptr}};
        PyType_Spec spec{qualified_.c_str(), static_cast<int>(sizeof(Object)), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
        auto type = pybind11::reinterpret_steal<pybind11::object>(PyType_FromSpec(&spec));
        if (!type) throw pybind11::error_already_set();
        type_ = reinterpret_cast<PyTypeObject*>(type.ptr());
        type_->tp_vectorcall = &make;
        module.attr(name) = type;
    }

    // An object's struct; null for objects of other classes.
    static const Args* of(PyObject* object) {
        return Py_TYPE(object) == type_ ? &reinterpret_cast<Object*>(object)->args : nullptr;
    }

 private:
    struct Object {
        PyObject_HEAD Args args;
    };

    static std::string signature() {
        std::string text = std::string(name_) + "(*";
        for (const Field& field : fields_)
            text += std::string(", ") + field.name + (field.required ? "" : "=0");
        return text + ")";
    }

    static void dealloc(PyObject* self) {
        PyTypeObject* type = Py_TYPE(self);
        PyObject_Free(self);
        Py_DECREF(type);
    }

    // Where the field of that name is, looked for from `first` on; fields_.size() for none.
    static size_t find(PyObject* name, size_t first) {
        if (first < fields_.size() && fields_[first].interned == name) return first;
        for (size_t i = 0; i < fields_.size(); ++i)
            if (fields_[i].interned == name) return i;
        for (size_t i = 0; i < fields_.size(); ++i)  // names that were put together are others
            if (PyUnicode_Compare(fields_[i].interned, name) == 0) return i;
        return fields_.size();
    }

    static PyObject* make(PyObject*, PyObject* const* values, size_t count, PyObject* names) {
        if (PyVectorcall_NARGS(count)) {
            PyErr_Format(PyExc_TypeError, "%s: fields are given by name", name_);
            return nullptr;
        }
        Args args{};
        uint64_t given = 0;
        const Py_ssize_t size = names ? PyTuple_GET_SIZE(names) : 0;
        size_t at = 0;
        for (Py_ssize_t i = 0; i < size; ++i, ++at) {
            PyObject* name = PyTuple_GET_ITEM(names, i);
            at = find(name, at);
            if (at == fields_.size()) {
                PyErr_Format(PyExc_TypeError, "%s: no field %R", name_, name);
                return nullptr;
            }
            if (!fields_[at].set(&args, values[i])) return nullptr;
            given |= uint64_t{1} << at;
        }
        for (size_t i = 0; i < fields_.size(); ++i)
            if (fields_[i].required && !(given >> i & 1)) {
                PyErr_Format(PyExc_TypeError, "%s: no value for %s", name_, fields_[i].name);
                return nullptr;
            }
        Object* object = PyObject_New(Object, type_);
        if (object) new (&object->args) Args(args);
        return reinterpret_cast<PyObject*>(object);
    }

    static inline PyTypeObject* type_ = nullptr;
    static inline const char* name_ = "";
    static inline std::string qualified_;
    static inline std::vector<Field> fields_;  // at most 64
};

// A kernel's parameter of such a class.
template <class Args>
struct Given {
    const Args* args = nullptr;
    const Args& operator*() const { return *args; }
};

}  // namespace pyengine

template <class Args>
struct pybind11::detail::type_caster<pyengine::Given<Args>> {
    PYBIND11_TYPE_CASTER(pyengine::Given<Args>, const_name("Args"));
    bool load(handle source, bool) {
        value.args = pyengine::ArgsClass<Args>::of(source.ptr());
        return value.args != nullptr;
    }
};
