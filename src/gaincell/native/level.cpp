// The entry points of one instruction level (GC_LEVEL), for dispatch.cpp to choose among.
#include "shared.h"

namespace gc {
namespace GC_LEVEL {

int forward(const gc_problem &problem);                                 // forward.cpp
int backward(const gc_problem &problem, const gc_gradient &gradient);   // backward.cpp
int decode(const gc_step &step);                                        // decode.cpp
int write(const gc_tokens &tokens);                                     // decode.cpp

extern const Level level;
const Level level = {forward, backward, decode, write};

}  // namespace GC_LEVEL
}  // namespace gc
