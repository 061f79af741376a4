// One token through the chosen neurons of a gated FFN, bfloat16, compute capability 9.0: down(act(gate x) * (up x)).
//
// Two launches, so that every multiprocessor's own memory can be full of the weights to come while a kernel waits for what only the
// kernel in front knows: `inner` holds rows of up and gate, `outer` the columns of down that it owns; the next `inner` starts where
// one has ended. Nothing is summed up between programs, so the same input gives the same bits.
//
// Given when it is compiled: WIDTH of a row; HOLD neurons in the memory of `inner`, PACE of them on the way at a time (a longer queue
// only lets the few numbers wait that a kernel in front needs); TEAMS of eight warps; COLUMNS of a program of `outer`, its THREADS
// and its SLOTS, passes over rows that are on the way; SETTLED, ACTIVATION, BIASED, BIASED_DOWN, INDEX as in `gated.whole`.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

constexpr u32 ROW = 2 * WIDTH;  // bytes
constexpr int TEAM = 8, CONSUMERS = TEAM * TEAMS, STEPS = (WIDTH / 128 + TEAM - 1) / TEAM;
static_assert(WIDTH % 128 == 0 && HOLD <= 32 && PACE >= 1, "rows are shared out in steps of 128 columns");
static_assert(HOLD % TEAMS == 0, "a slot belongs to one team, or a team could take the slot's last neuron for its next");

__device__ __forceinline__ u32 place_of(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// --- barriers in shared memory, and copies that arrive at them ---

__device__ __forceinline__ void begin(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void await(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again_%=;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void fetch_row(u32 to, const u16* from, u32 barrier, u64 policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
      "r"(ROW), "r"(barrier), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void fetch_piece(u32 to, const u16* from, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void await_pieces() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ u64 read_once() {  // weights are not needed again: they shall not push anything out of the L2 cache
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// --- launches that overlap ---

__device__ __forceinline__ void launch_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void await_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// --- numbers ---

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ u16 rounded(float value) {  // to the nearest bfloat16, ties to even
  const u32 bits = __float_as_uint(value);
  return value != value ? 0x7fff : (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
__device__ __forceinline__ float act(float x) {
  if (ACTIVATION == 1) return x / (1.f + __expf(-x));
  if (ACTIVATION == 2) return 0.5f * x * (1.f + erff(x * 0.7071067811865476f));
  if (ACTIVATION == 3) return x / (1.f + __expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
  if (ACTIVATION == 4) return x > 0.f || x != x ? x : 0.f;
  if (ACTIVATION == 5) return x > 0.f || x != x ? x * x : 0.f;
  return x;
}
__device__ __forceinline__ void load_tiles(u32 (&tiles)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(at)
               : "memory");
}
__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- act(gate_i x) * (up_i x) ---

struct Inner {
  const u16 *x, *up, *gate, *up_bias, *gate_bias;
  const INDEX* neurons;
  float* a;
  int n_chosen;
};
struct Held {
  u64 full[HOLD], done[HOLD];
  float2 sums[2][HOLD][TEAM * 8];  // of (up, gate), from every warp and segment of a row
};

__device__ __forceinline__ void fetch_neuron(const Inner& in, size_t neuron, u32 to, u32 full, u64 policy) {
  expect(full, 2 * ROW);
  fetch_row(to, in.up + neuron * WIDTH, full, policy);
  fetch_row(to + ROW, in.gate + neuron * WIDTH, full, policy);
}

// One warp: fetches neurons into the slots, and finishes the sums of each round of slots, eight neurons at a time.
__device__ __forceinline__ void serve(const Inner& in, Held& held, u32 rows, int lane) {
  const u64 policy = read_once();
  const int across = gridDim.x, round = HOLD * across, end = lane < HOLD ? in.n_chosen : 0;
  const u32 full = place_of(held.full + lane % HOLD), to = rows + lane * 2 * ROW;
  int place = blockIdx.x + lane * across;  // of the neuron in the slot of this lane
  size_t neuron = place < end ? in.neurons[place] : 0;
#pragma unroll 1
  for (int slot = 0; slot < HOLD && blockIdx.x + slot * across < in.n_chosen; ++slot) {
    if (slot >= PACE) await(place_of(held.full + slot - PACE), 0);
    if (lane == slot) fetch_neuron(in, neuron, to, full, policy);
  }
  if (place + round < end) neuron = in.neurons[place + round];
  await_previous();
  u32 parity = 0;
#pragma unroll 1
  for (int first = blockIdx.x; first < in.n_chosen; first += round, parity ^= 1) {
#pragma unroll 1
    for (int slot = 0; slot < HOLD && first + slot * across < in.n_chosen; ++slot) {
      await(place_of(held.done + slot), parity);
      if (lane == slot && place + round < end) fetch_neuron(in, neuron, to, full, policy);
    }
#pragma unroll
    for (int some = 0; some < HOLD; some += 8) {
      const int slot = some + lane / 4, at = first + slot * across;
      float up = 0.f, gate = 0.f;
      if (slot < HOLD)
#pragma unroll
        for (int i = 0; i < TEAM; ++i) {
          const float4 two = ((const float4*)held.sums[parity][slot])[i * 4 + lane % 4];
          up += two.x + two.z, gate += two.y + two.w;
        }
      up += __shfl_xor_sync(~0u, up, 1), gate += __shfl_xor_sync(~0u, gate, 1);
      up += __shfl_xor_sync(~0u, up, 2), gate += __shfl_xor_sync(~0u, gate, 2);
      if (lane % 4 == 0 && slot < HOLD && at < in.n_chosen) {
        if (BIASED) up += low(in.up_bias[in.neurons[at]]), gate += low(in.gate_bias[in.neurons[at]]);
        __stcg(in.a + at, up * act(gate));
      }
    }
    place += round;
    if (place + round < end) neuron = in.neurons[place + round];
  }
}

// Eight warps a team: a team takes a neuron, a warp every eighth step of its columns. The tensor core's 16 x 8 products are of
// eight segments of the rows of up and of gate with eight segments of x; a segment's product with its own segment stands on the
// diagonal, and these make the sum. A step is two tiles of 8 x 8 numbers, each 128 neighbouring bytes of a row.
__device__ __forceinline__ void consume(const Inner& in, Held& held, u32 rows, int warp, int lane) {
  const int team = warp / TEAM, part = warp % TEAM, across = gridDim.x;
  const u32 at = rows + (lane / 8 % 2) * ROW + (part * 2 + lane / 16) * 128 + lane % 8 * 16;
  const int segment = lane / 4;
  const bool diagonal = lane % 4 == segment / 2;
  await_previous();
  u32 x[STEPS][2];
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tile = (step * TEAM + part) * 2 + half;
      x[step][half] = tile < WIDTH / 64 ? __ldcg((const u32*)in.x + tile * 32 + lane) : 0;
    }
  int slot = team;
  u32 parity = 0;
#pragma unroll 1
  for (int place = blockIdx.x + team * across; place < in.n_chosen; place += TEAMS * across) {
    await(place_of(held.full + slot), parity);
    u32 tiles[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
      if (step * TEAM + part < WIDTH / 128) load_tiles(tiles[step], at + slot * 2 * ROW + step * TEAM * 256);
    float sum[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
      if (step * TEAM + part < WIDTH / 128) multiply(sum[step % 2], tiles[step], x[step]);
    const int odd = segment % 2;
    const float up = odd ? sum[0][1] + sum[1][1] : sum[0][0] + sum[1][0], gate = odd ? sum[0][3] + sum[1][3] : sum[0][2] + sum[1][2];
    if (diagonal) held.sums[parity][slot][part * 8 + segment] = make_float2(up, gate);
    __syncwarp();
    if (lane == 0) arrive(place_of(held.done + slot));
    slot += TEAMS;
    if (slot >= HOLD) slot -= HOLD, parity ^= 1;
  }
}

extern "C" __global__ void __launch_bounds__(32 * CONSUMERS + 32) inner(const Inner in) {
  extern __shared__ __align__(128) unsigned char weights[];  // HOLD rows of up and gate
  __shared__ __align__(16) Held held;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (!SETTLED) await_previous();
  if (threadIdx.x == 0) launch_next();
  if (threadIdx.x < HOLD) {
    begin(place_of(held.full + threadIdx.x), 1);
    begin(place_of(held.done + threadIdx.x), TEAM);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (warp == CONSUMERS)
    serve(in, held, place_of(weights), lane);
  else
    consume(in, held, place_of(weights), warp, lane);
}

// --- sum of a_i down_i ---

struct Outer {
  const float* a;
  const u16 *down, *bias;
  const INDEX* neurons;
  u16* result;
  int n_chosen;
};
constexpr int ACROSS = COLUMNS / 8;                         // threads that read one row, 16 bytes each
constexpr int OWN = 32 / ACROSS, PASS = THREADS / ACROSS;   // rows that a warp, and a program, reads in one pass
constexpr int TURN = SLOTS * PASS, REGISTERS = (OWN * SLOTS + 31) / 32;
static_assert(COLUMNS % 8 == 0 && 32 % ACROSS == 0 && COLUMNS <= THREADS, "a warp reads whole rows");

// What belongs to the rows of a turn: a register of a lane holds one row's; `of_slot` hands it to the threads of the row.
template <typename T, typename From>
__device__ __forceinline__ void load_turn(T (&held)[REGISTERS], const From* from, int first, int n_chosen) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < REGISTERS; ++i) {
    const int which = i * 32 + lane, row = first + which / OWN * PASS + warp * OWN + which % OWN;
    held[i] = which < OWN * SLOTS && row < n_chosen ? (T)__ldcg(from + row) : (T)0;
  }
}
template <typename T>
__device__ __forceinline__ T of_slot(const T (&held)[REGISTERS], int slot) {
  T value = held[0];
#pragma unroll
  for (int i = 1; i < REGISTERS; ++i)
    if (slot * OWN >= 32 * i) value = held[i];
  return __shfl_sync(~0u, value, slot * OWN % 32 + threadIdx.x % 32 / ACROSS);
}

extern "C" __global__ void __launch_bounds__(THREADS) outer(const Outer in) {
  extern __shared__ __align__(128) unsigned char weights[];  // SLOTS x THREADS pieces of 16 bytes; a thread reads only its own
  __shared__ float parts[THREADS / 32][COLUMNS];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * OWN + lane / ACROSS;
  const u32 mine = place_of(weights) + threadIdx.x * 16;
  const u16* from = in.down + blockIdx.x * COLUMNS + lane % ACROSS * 8;
  const u64 policy = read_once();
  if (threadIdx.x == 0) launch_next();
  int next[REGISTERS];
  load_turn(next, in.neurons, 0, in.n_chosen);
#pragma unroll 1
  for (int slot = 0; slot < SLOTS; ++slot) {
    const size_t neuron = of_slot(next, slot);
    if (slot * PASS + own < in.n_chosen) fetch_piece(mine + slot * THREADS * 16, from + neuron * WIDTH, policy);
    commit();
  }
  load_turn(next, in.neurons, TURN, in.n_chosen);
  await_previous();
  float a[REGISTERS], total[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  load_turn(a, in.a, 0, in.n_chosen);
#pragma unroll 1
  for (int first = 0; first < in.n_chosen; first += TURN) {
    float a_next[REGISTERS];
    int after_next[REGISTERS];
    load_turn(a_next, in.a, first + TURN, in.n_chosen);
    load_turn(after_next, in.neurons, first + 2 * TURN, in.n_chosen);
#pragma unroll UNROLL
    for (int slot = 0; slot < SLOTS; ++slot) {
      const float share = of_slot(a, slot);
      const size_t neuron = of_slot(next, slot);
      const int row = first + slot * PASS + own;
      await_pieces<SLOTS - 1>();
      if (row < in.n_chosen) {
        u32 pair[4];
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(pair[0]), "=r"(pair[1]), "=r"(pair[2]), "=r"(pair[3])
                     : "r"(mine + slot * THREADS * 16));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[2 * i] = fmaf(share, low(pair[i]), total[2 * i]);
          total[2 * i + 1] = fmaf(share, high(pair[i]), total[2 * i + 1]);
        }
      }
      if (row + TURN < in.n_chosen) fetch_piece(mine + slot * THREADS * 16, from + neuron * WIDTH, policy);
      commit();
    }
#pragma unroll
    for (int i = 0; i < REGISTERS; ++i) a[i] = a_next[i], next[i] = after_next[i];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int apart = ACROSS; apart < 32; apart *= 2) total[i] += __shfl_xor_sync(~0u, total[i], apart);
  if (lane < ACROSS)
#pragma unroll
    for (int i = 0; i < 8; ++i) parts[warp][lane * 8 + i] = total[i];
  __syncthreads();
  if (threadIdx.x < COLUMNS) {
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = BIASED_DOWN ? low(in.bias[column]) : 0.f;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) sum += parts[i][threadIdx.x];
    in.result[column] = rounded(sum);
  }
}
