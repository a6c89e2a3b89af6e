// Cosines and sines of rotary embedding for one position, in double and without the C library, whose results depend
// on the CPU. Any thread.
#pragma once

#include <cstdint>
#include <span>

#include "model/config.hpp"

namespace troupe::gpu::host {

// sin(x) and cos(x) for 0 <= x < 2^20, within 1e-10.
void sin_cos(double x, double& sine, double& cosine);

// Lanes of a head as kernel_table::rope reads them: [rope.dimensions] cosines, and sines with the sign of the lane.
void rope_lanes(const model::rope_config& rope, const model::rope_frequencies& frequencies,
                std::uint32_t position, std::span<float> cosine, std::span<float> sine);

}  // namespace troupe::gpu::host
