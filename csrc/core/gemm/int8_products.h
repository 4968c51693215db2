// The kinds of instructions that multiply int8, by name. Not for vector code.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pyengine {

// Each of this build, with why it does not run here ("" where it does).
std::vector<std::pair<std::string, std::string>> int8_products();

// For tests: by name, or "" for what suits. Throws std::invalid_argument or std::runtime_error.
void set_int8_product(const std::string& name);

}  // namespace pyengine
