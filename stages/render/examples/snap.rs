//! Draws what the robot sees at a place of a house, and a plan: `snap HOUSES.jsonl.gz LINE X Z YAW OUT-PREFIX [FACTOR]`.
use household::{
    compile::compile,
    geometry::vec2,
    parse,
    robot::Robot,
    sim::{Home, Sim},
    view::{Eye, cameras},
};
use rand::SeedableRng as _;
use render::{Model, Renderer, Size, View, look::Look};
use std::{io::Read as _, sync::Arc, time::Instant};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(&args[1]).unwrap()).read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let number = |k: usize| args.get(k).and_then(|a| a.parse::<f64>().ok());
    if args[2] == "bench" {
        bench(&lines);
        return;
    }
    let scene = compile(&parse::house(lines[number(2).unwrap() as usize].as_bytes()).unwrap()).unwrap();
    let look = number(8).map_or(Look::own(), |seed| Look::randomised(seed as u64));
    let model = Model::new(&scene, &look);
    let home = Arc::new(Home::new(scene));
    let mut robot = Robot::stowed(vec2(number(3).unwrap(), number(4).unwrap()), number(5).unwrap());
    if number(5).unwrap() == 0.5 {
        robot.extension = 0.3;
        robot.lift = 0.6;
        robot.wrist = 0.0;
    }
    let sim = Sim::new(Arc::clone(&home), robot, cameras(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1)));
    let factor = number(7).unwrap_or(1.0) as usize;
    let size = Size { width: 384 * factor, height: 224 * factor };
    let mut renderer = Renderer::new(size);
    for (eye, name) in [(Eye::Navigation, "nav"), (Eye::Manipulation, "manip")] {
        renderer.draw(&model, &sim, eye);
        save(&renderer, &format!("{}-{name}.png", args[6]));
    }
    let (low, high) = home.space.bounds();
    let (cx, cz) = ((low.x + high.x) / 2.0, (low.z + high.z) / 2.0);
    let far = 60.0;
    let span = (high.z - low.z).max((high.x - low.x) * 224.0 / 384.0) * 1.1;
    let view = View::looking([cx, far, cz], [cx, 0.0, cz], 2.0 * (span / 2.0 / far).atan().to_degrees(), size);
    renderer.draw_from(&model, Some(&sim), &view, true);
    save(&renderer, &format!("{}-plan.png", args[6]));
}

fn save(renderer: &Renderer, path: &str) {
    let mut rgb = Vec::new();
    renderer.rgb(&mut rgb);
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), renderer.size().width as u32, renderer.size().height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
}

fn bench(lines: &[&str]) {
    let mut renderer = Renderer::new(Size::CAMERA);
    let mut rgb = Vec::new();
    let (mut draw, mut colour, mut count, mut build) = (0.0, 0.0, 0, 0.0);
    for line in lines {
        let scene = compile(&parse::house(line.as_bytes()).unwrap()).unwrap();
        let at = Instant::now();
        let model = Model::new(&scene, &Look::own());
        build += at.elapsed().as_secs_f64();
        let home = Arc::new(Home::new(scene));
        let (low, high) = home.space.bounds();
        for k in 0..64 {
            let at = vec2(low.x + (high.x - low.x) * f64::from(k % 8) / 8.0, low.z + (high.z - low.z) * f64::from(k / 8) / 8.0);
            let robot = Robot::stowed(at, f64::from(k) * 37.0);
            if !robot.fits(&home.space) {
                continue;
            }
            let sim = Sim::new(Arc::clone(&home), robot, cameras(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1)));
            for eye in [Eye::Navigation, Eye::Manipulation] {
                for _ in 0..5 {
                    let at = Instant::now();
                    renderer.draw(&model, &sim, eye);
                    draw += at.elapsed().as_secs_f64();
                    let at = Instant::now();
                    renderer.rgb(&mut rgb);
                    colour += at.elapsed().as_secs_f64();
                    count += 1;
                }
            }
        }
    }
    let n = f64::from(count);
    println!(
        "{count} pictures, draw {:.3} ms, colour {:.3} ms, model {:.2} ms",
        draw / n * 1e3,
        colour / n * 1e3,
        build / lines.len() as f64 * 1e3
    );
}
