// Our multiplication for processors with AVX-512 and its VNNI.
#include "matmul_vnni.hpp"
#include "matmul_unpack_vnni.hpp"
#include "matmul_compute.hpp"

namespace hybrid {

const Version vnni{takes, multiply_all, multiply_q4_k_8x8, multiply_q4_0_8x8};

}  // namespace hybrid
